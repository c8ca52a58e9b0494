"""The repeatability gate lets a lesson pass that prints the same twice, and stops one that does not."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

GATE = Path(__file__).parents[1] / "tools" / "gate.py"


def executed(folder: Path, source: str, printed: str) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(
                source,
                execution_count=1,
                outputs=[
                    nbformat.v4.new_output("stream", name="stderr", text="a progress bar"),
                    nbformat.v4.new_output("stream", name="stdout", text=printed),
                ],
            )
        ]
    )
    nbformat.write(notebook, folder / "00_start_here.ipynb")


def gate(folder: Path, *lessons: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, GATE, folder, *lessons], capture_output=True, text=True)


@pytest.mark.slow
def test_gate_stops_a_lesson_whose_digits_change(tmp_path):
    noise = "import sys; print('a notice', file=sys.stderr); "
    executed(tmp_path, noise + "print('Dice', 0.731, 'after 3.2 s')", "Dice 0.731 after 2.9 s\n")
    assert gate(tmp_path).returncode == 0
    executed(tmp_path, "print('Dice', 0.731)", "Dice 0.732\n")
    found = gate(tmp_path)
    assert found.returncode == 1
    assert "0.732" in found.stdout


@pytest.mark.slow
def test_gate_trains_anew_what_the_run_before_it_trained(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "trained.npz").touch()
    monkeypatch.setenv("BUSUTILS_CACHE_DIR", str(tmp_path / "cache"))
    look = "from busutils import jobs; print('kept:', sorted(p.name for p in jobs.cache_dir().iterdir()))"
    executed(tmp_path, look, "kept: []\n")
    assert gate(tmp_path).returncode == 0


def test_gate_says_what_to_run_first(tmp_path):
    found = gate(tmp_path, "03")
    assert found.returncode == 2
    assert "holds no executed 03_train_a_unet: run busutils lessons run first" in found.stderr
