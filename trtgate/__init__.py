"""trtgate: is the upgraded stack's engine still PyTorch's answer, and still as fast?"""

__version__ = "0.1.0"
