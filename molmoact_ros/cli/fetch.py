"""Downloads a released checkpoint from the Hugging Face Hub: its data files, never its code."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

FILES = ("*.json", "*.jinja", "*.safetensors", "vae-final.pt", "README.md", "LICENSE*")
"""Files that are downloaded. No Python file, and no pickle but the depth VQ-VAE, of which only tensors are read."""

FETCHED: Final = "fetched.json"
"""The file in the folder that records the repository and the commit of its files."""


def fetch(repository: str, folder: Path, revision: str | None = None) -> Path:
    """Download `repository` ("owner/name") into `folder`, with progress bars.

    All files are of one commit: the one that `revision` names now or, without a revision, the one that the folder
    already has. FETCHED records it. An interrupted connection resumes where it broke; a call after an interrupted one
    downloads the missing files.

    Raises ValueError, in one line that says what to do.
    """
    before = fetched(folder)
    if before and before["repository"] != repository:
        raise ValueError(f"{folder} is of {before['repository']}; fetch {repository} into another folder")
    try:
        commit = HfApi().model_info(repository, revision=revision or (before or {}).get("commit")).sha
        if before and before["commit"] != commit:
            raise ValueError(f"{folder} is of the commit {before['commit']}; fetch {commit} into another folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FETCHED).write_text(json.dumps({"repository": repository, "commit": commit}, indent=1))
        snapshot_download(repository, revision=commit, local_dir=folder, allow_patterns=list(FILES))
    except GatedRepoError:
        raise ValueError(f"{repository} is gated; accept its terms on the Hub, then `hf auth login`") from None
    except RevisionNotFoundError:
        raise ValueError(f"{repository} has no revision {revision}; give a branch, a tag or a commit of it") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ValueError(f"there is no {repository} on the Hub; one is allenai/MolmoAct-7B-D-0812") from None
    except ValueError:
        raise
    except Exception as error:  # whatever the HTTP client beneath raises: it has changed with the library's versions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"the download stopped ({reason}); the same command fetches what is missing") from None
    return folder


def fetched(folder: Path) -> dict[str, str] | None:
    """The `repository` and the `commit` of a folder; None where it was not downloaded by `fetch`."""
    file = folder / FETCHED
    return json.loads(file.read_text()) if file.exists() else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("repository", help="such as allenai/MolmoAct-7B-D-0812")
    parser.add_argument("--out", type=Path, help="folder; default: the repository's name, here")
    parser.add_argument("--revision", help="branch, tag or commit; default: the folder's own, or the newest")


def run(args: argparse.Namespace) -> int:
    """Download a released checkpoint."""
    folder = fetch(args.repository, args.out or Path(args.repository.split("/")[-1]), args.revision)
    print(f"commit {(fetched(folder) or {})['commit']}; the same again elsewhere: --revision and that commit")
    print(f"checkpoint in {folder}; look at it with: molmoact-ros doctor --checkpoint {folder}")
    return 0
