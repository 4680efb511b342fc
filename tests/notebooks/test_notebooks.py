"""The notebooks run from their first cell to the last."""
import pytest

from conftest import PROJECT, copy_project

NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_notebooks_run(notebook, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    copy_project(tmp_path / "copy")
    opened = nbformat.read(tmp_path / "copy" / "notebooks" / notebook.name, 4)
    nbclient.NotebookClient(opened, timeout=300, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path / "copy" / "notebooks")}}).execute()
    outputs = [output for cell in opened.cells for output in cell.get("outputs", ())]
    shown = [output["data"] for output in outputs if "data" in output]
    assert sum("<svg" in data.get("text/html", "") for data in shown) == 2  # the curves of two runs


def test_notebooks_are_kept_without_outputs():
    import json

    for notebook in NOTEBOOKS:
        cells = json.loads(notebook.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), notebook
