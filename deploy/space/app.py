"""Entry of the Hugging Face Space: what ``busutils app`` does, open to visitors."""

import sys

from busutils.cli import main

if __name__ == "__main__":
    sys.exit(main(["app", "--weights", "busi-light", "--host", "0.0.0.0", "--port", "7860"]))
