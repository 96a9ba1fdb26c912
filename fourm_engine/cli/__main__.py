"""`python -m fourm_engine.cli`: `fourm` for torchrun."""

from fourm_engine.cli import main

if __name__ == "__main__":
    main()
