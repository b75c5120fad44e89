"""The command diffusion-jax, which is python -m diffusion_jax.main."""

import runpy


def main() -> None:
    """Runs diffusion_jax.main as a program."""
    runpy.run_module("diffusion_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
