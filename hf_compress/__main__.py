"""`python -m hf_compress` is `hf-compress`."""

from hf_compress.cli import main

main()
