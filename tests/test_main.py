import runpy

import pytest

import steersman


def test_the_package_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["steersman", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("steersman", run_name="__main__")
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == steersman.__version__
