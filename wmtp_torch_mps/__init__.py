"""The PyTorch trainer for Apple silicon, thin: `python -m wmtp_torch_mps.train`."""
