"""`python -m stillbit`, which is what torchrun starts: `torchrun --nproc_per_node 8 -m stillbit train RECIPE`."""

from stillbit.cli import main

if __name__ == "__main__":
    main()
