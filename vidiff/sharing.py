"""A run as a folder for others: weights, what they are, and a model card.

The card is made from the run: its data, its limits, its scores and its cost, and it says where
something is not known. The folder loads with `vidiff.load`, from this machine or from the Hugging
Face Hub (`from_pretrained`), and goes there with `push_to_hub`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from safetensors.torch import save_file

from vidiff import __version__
from vidiff.errors import RequestError, VidiffError
from vidiff.pipeline import VideoDiffusion
from vidiff.runs.checkpoint import weights_hash
from vidiff.runs.files import read_json, write_atomically, write_json, write_text
from vidiff.runs.provenance import environment
from vidiff.runs.tracking import read_metrics
from vidiff.saved import EXPORT_FORMAT, describe, load

CARD = "README.md"
"""Name of the model card, as the Hub expects it."""


def export(run: str | Path, out: str | Path, weights: str = "ema") -> list[Path]:
    """Write a run's weights, description and model card to a folder of its own.

    Args:
        run: run or checkpoint folder.
        out: folder to make; an export there is replaced, anything else refused.
        weights: which weights (see `vidiff.load`).

    Returns:
        the files made.

    Raises:
        RequestError: no valid checkpoint, no such weights, or `out` holds something else.
    """
    folder = Path(out)
    names = {"config.json", "model.safetensors", CARD}
    found = {p.name for p in folder.iterdir()} if folder.exists() else set()
    others = sorted(found - names)
    if others:
        raise RequestError(
            f"{folder} holds other files: {', '.join(others[:5])}.", "Choose a folder of its own."
        )
    model = load(run, weights)
    tensors = {k: v.contiguous() for k, v in model.network.state_dict().items()}
    about = {
        "vidiff_export": EXPORT_FORMAT,
        "vidiff_version": __version__,
        "pipeline": describe(model, model.network.config),  # type: ignore[arg-type]
        "weights": weights,
        "weights_sha256": model.weights_hash,
        "tensors_sha256": weights_hash(tensors),
        "data_digest": model.data_digest,
        "environment": environment(),
    }
    with write_atomically(folder / "model.safetensors") as temporary:
        save_file(tensors, temporary)
    made = [folder / "model.safetensors", write_json(folder / "config.json", about)]
    return [*made, write_text(folder / CARD, write_card(model, Path(run)))]


def write_card(model: VideoDiffusion, run: Path) -> str:
    """The model card in Markdown, from what the run's folder holds."""
    jinja = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = jinja.from_string(Path(__file__).with_name("card.md").read_text(encoding="utf-8"))
    facts = {
        "name": run.resolve().name,
        "millions": sum(p.numel() for p in model.network.parameters()) / 1e6,
        "model": model,
        "held_out": _held_out(run),
        "report": _report(run),
        "hours": _hours(run),
        "versions": environment(),
    }
    return template.render(**facts)


def _held_out(run: Path) -> dict[str, float]:
    """The last held-out losses by noise level, or nothing."""
    lines = read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").is_file() else []
    marked = [{k: v for k, v in line.items() if k.startswith("held_out")} for line in lines]
    return next((line for line in reversed(marked) if line), {})


def _report(run: Path) -> dict[str, Any]:
    """Scores by the evaluator, where the run's folder holds them."""
    path = run / "eval" / "report.json"
    return dict(read_json(path)) if path.is_file() else {}


def _hours(run: Path) -> float | None:
    path = run / "timing.jsonl"
    if not path.is_file():
        return None
    seconds, before = 0.0, 0
    for line in read_metrics(path):
        seconds += float(line["seconds"]) * (int(line["step"]) - before)
        before = int(line["step"])
    return seconds / 3600


def from_pretrained(name: str | Path, revision: str | None = None) -> VideoDiffusion:
    """A shared model: a local folder, or the name of a repository on the Hugging Face Hub.

    Raises:
        RequestError: neither a folder nor a repository that can be reached.
    """
    if Path(name).is_dir():
        return load(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        patterns = ["config.json", "model.safetensors", CARD]
        return load(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise RequestError(
            f"{name} is no folder here, and could not be fetched from the Hugging Face Hub: "
            f"{type(error).__name__}.",
            "Check the name (user/model) and the network, or give a folder.",
        ) from error


def push_to_hub(folder: str | Path, name: str, private: bool = True) -> str:
    """Upload an exported folder to the Hugging Face Hub, as the user who is logged in there.

    Returns:
        its address.

    Raises:
        RequestError: not an export.
        VidiffError: the Hub refused or could not be reached.
    """
    load(folder)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        url = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder))
    except (HfHubHTTPError, OSError) as error:
        raise VidiffError(
            f"{folder} could not be uploaded as {name}: {type(error).__name__}: {error}.",
            "Log in with `hf auth login`, check the name and the network.",
        ) from error
    return str(url)
