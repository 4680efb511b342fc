"""What metrics compute beside numbers, as files of numpy: `np.load(file)["val/confusion"]`."""
import io
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from utils.run_files import replace_file

log = logging.getLogger(__name__)


def write_arrays(run: Path, split: str, arrays: Mapping[str, Mapping[str, np.ndarray]], epoch: int) -> None:
    """Writes `metrics/val_confusion_epoch0003.npz` for each metric of `arrays`, with names as in the logs.

    The log names the first file of a metric. A failure is logged, and ends nothing.
    """
    for metric, named in arrays.items():
        stem, content = re.sub(r"[^\w.+=-]+", "_", f"{split}/{metric}"), io.BytesIO()
        np.savez_compressed(content, **{f"{split}/{name}": array for name, array in named.items()})
        file = run / "metrics" / f"{stem}_epoch{epoch:04d}.npz"
        try:
            file.parent.mkdir(exist_ok=True)
            if not any(file.parent.glob(f"{stem}_epoch*.npz")):
                log.info("%s/%s is no number: see %s", split, metric, file)
            replace_file(file, content.getvalue())
        except OSError as error:
            log.warning("%s: cannot be written: %s", file, error.strerror or error)
