"""OTCXR in torch alone: views, encoders, CV-SIM, transport and the objective."""
