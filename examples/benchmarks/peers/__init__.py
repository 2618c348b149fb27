"""Other ways to get features of chest X-rays, all by one budget.

`losses.py` has the self-supervised peers, `pretrain.py` trains them, `features.py` adds what needs
no pre-training and ours.
"""
