"""Downloads a released checkpoint from the Hugging Face Hub: its data files, never its code."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

FILES = ("*.json", "*.jinja", "*.safetensors", "vae-final.pt", "README.md", "LICENSE*")
"""What is fetched. No Python file, and no pickle but the depth VQ-VAE, whose tensors alone are read."""


def fetch(repository: str, folder: Path, revision: str | None = None) -> Path:
    """Download `repository` ("owner/name") into `folder`, with progress bars.

    A connection that breaks is taken up where it broke; a call after one that stopped fetches the missing files.

    Raises ValueError, in one line that says what to do.
    """
    try:
        snapshot_download(repository, revision=revision, local_dir=folder, allow_patterns=list(FILES))
    except GatedRepoError:
        raise ValueError(f"{repository} is gated; accept its terms on the Hub, then `hf auth login`") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ValueError(f"there is no {repository} on the Hub; one is allenai/MolmoAct-7B-D-0812") from None
    except Exception as error:  # whatever the HTTP client beneath raises: it has changed with the library's versions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the download stopped ({reason}); the same command fetches what is missing") from None
    return folder
