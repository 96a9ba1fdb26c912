"""`python -m fourm_engine.cli` is `fourm`; what torchrun launches."""

from fourm_engine.cli import main

if __name__ == "__main__":
    main()
