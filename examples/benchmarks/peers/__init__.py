"""Other ways to get features of chest X-rays, all with the same training budget.

`losses.py` has the self-supervised peers, `pretrain.py` trains them, and `features.py` adds OTCXR
and methods that need no pre-training.
"""
