"""Downloads a released checkpoint from the Hugging Face Hub: its data files, never its code."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

FILES = ("*.json", "*.jinja", "*.safetensors", "vae-final.pt", "README.md", "LICENSE*")
"""What is fetched. No Python file, and no pickle but the depth VQ-VAE, whose tensors alone are read."""


def fetch(repository: str, folder: Path, revision: str | None = None) -> Path:
    """Download `repository` ("owner/name") into `folder`, with progress bars; goes on where an earlier call stopped.

    Raises ValueError, in one line that says what to do.
    """
    try:
        snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=list(FILES))
    except GatedRepoError:
        raise ValueError(f"{repository} is gated; accept its terms on the Hub, then `hf auth login`") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ValueError(
            f"there is no {repository} on the Hub; released are allenai/MolmoAct-7B-D-0812 and others"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the download stopped ({reason}); the same command goes on from there") from None
    return folder
