import os
import stat

import jax
import pytest

from reversion_jax.runtime.compilation import keep_compiled


@pytest.fixture
def set_to(monkeypatch):
    """Records which settings of JAX the code would change, without changing the settings."""
    found = {}
    monkeypatch.setattr(jax.config, "update", found.__setitem__)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return found


def test_the_folder_of_compiled_programs_is_closed_to_other_users(set_to, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "reversion_jax").mkdir(mode=0o777)
    keep_compiled()
    assert set_to["jax_compilation_cache_dir"] == str(tmp_path / "reversion_jax")
    assert stat.S_IMODE(os.stat(tmp_path / "reversion_jax").st_mode) == 0o700


def test_a_folder_that_the_user_chose_for_compiled_programs_is_kept(set_to, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    keep_compiled()
    assert not set_to


def test_compiled_programs_are_not_stored_if_no_folder_can_be_made(set_to, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_compiled()
    assert not set_to
