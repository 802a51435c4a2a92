"""Downloads from the Hugging Face hub, with one line for each way in which they fail."""

from collections.abc import Sequence
from pathlib import Path

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError


def snapshot(
    name: str, revision: str | None, wanted: Sequence[str], unwanted: Sequence[str] = (), kind: str = "model"
) -> Path:
    """The folder, named after its commit, with the files of a repository that match `wanted` and none of `unwanted`.

    It lies in the hub's cache: a download that was interrupted is resumed there, and files that are there are not
    fetched again. `kind` is model or dataset.

    Raises:
        ValueError: there is no such repository or revision, or a licence must be accepted first.
        ConnectionError: the hub cannot be reached, and the cache has not all of the files.
    """
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{name}"
    try:
        folder = snapshot_download(
            name, repo_type=kind, revision=revision, allow_patterns=[*wanted], ignore_patterns=[*unwanted]
        )
    except GatedRepoError:
        raise ValueError(
            f"{name} is gated: accept its licence at {page}, and set HF_TOKEN to a token of the account that did"
        ) from None
    except RevisionNotFoundError:
        raise ValueError(f"{name} has no revision {revision} on the hub: see {page}/commits/main") from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"the hub has no repository {name}, or it is private: set HF_TOKEN to a token that may read it"
        ) from None
    except (OSError, httpx2.HTTPError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[:1]
        raise ConnectionError(
            f"cannot download {name} from the hub ({''.join(reason) or type(error).__name__}): check the network and "
            "HF_HUB_OFFLINE; files that came are kept in the hub's cache"
        ) from error
    return Path(folder)
