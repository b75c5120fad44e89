"""Laws of the lock of a workdir."""

import pytest

from diffusion_jax.training import lock


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    """Point 9: a disk that is full at the start is refused, and neither the lock
    nor the new folder is left behind."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock, "_write", full)
    folder = tmp_path / "run"
    with pytest.raises(OSError, match="run cannot be written .No space left"):
        with lock.locked(folder):
            pass
    assert not folder.exists()
