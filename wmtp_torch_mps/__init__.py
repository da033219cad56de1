"""The PyTorch trainer for Apple silicon, thin: `python -m wmtp_torch_mps.train`."""

NAME = "wmtp_torch_mps"  # of its runs and exports, and for messages
