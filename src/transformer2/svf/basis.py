"""The singular value decomposition behind SVF, stored as one square orthogonal matrix and the singular values.

For W (m x n) with W = U diag(s) V^T, SVF's W' = U diag(s * z) V^T needs only one of the two factors:

    tall, m >= n (Q = V):  W' = W + W Q diag(z - 1) Q^T
    wide, m <  n (Q = U):  W' = W + Q diag(z - 1) Q^T W

because V (or U) is square, so W V diag(z) V^T = U diag(s) diag(z) V^T. At z = 1 this is W bit for bit, which U, s and V
in a finite precision are not, and it stores r^2 numbers in place of (m + n) r.

Q and s come from the eigenvectors of the Gram matrix in float64: faster than a float32 SVD and, for weights of a
condition number below 1e6, more exact. Naive equivalent: `torch.linalg.svd(W.double())`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

SOLVER = "gram-eigh-float64"
DECODER_MATRIX = re.compile(r"(?P<module>(?!.*vision).*\.layers\.\d+\..*_proj)\.weight")
"""Weights that SVF may adapt: the linear maps inside the decoder layers; never embeddings, heads, norms or vision."""
IN_FILES, IN_MODELS = "language_model.model.", "model.language_model."
"""Where a LlavaNext keeps its language model: by another name in its files than in the model itself."""


@dataclass(frozen=True)
class Basis:
    """q: (r, r) orthogonal, columns by descending singular value, r = min(m, n); s: (r,) float32 singular values."""

    q: Tensor
    s: Tensor


def decompose(weight: Tensor) -> Basis:
    """Q and s of a weight (m, n); Q in the dtype of the weight.

    Columns have the sign that makes their entry of largest magnitude positive, so a basis is reproducible.
    """
    eigenvalues, q = torch.linalg.eigh(_gram(weight), UPLO="U")  # ascending
    q, s = q.flip(1), eigenvalues.flip(0).clamp(min=0).sqrt()
    largest = q.gather(0, q.abs().argmax(0, keepdim=True))
    return Basis((q * largest.sign()).to(weight.dtype).contiguous(), s.float())


def _gram(weight: Tensor) -> Tensor:
    """W^T W or W W^T, (r, r) in float64, right in its upper triangle alone: that takes 5/8 of the operations of all."""
    w = weight.double() if is_tall(weight) else weight.double().T
    r = w.shape[1]
    gram = w.new_zeros(r, r)
    edges = [r * i // 4 for i in range(5)]
    for first, last in zip(edges, edges[1:], strict=False):
        gram[:last, first:last] = w[:, :last].T @ w[:, first:last]
    return gram


def is_tall(weight: Tensor) -> bool:
    """Whether a weight (m, n) has m >= n; then Q = V (n, n), else Q = U (m, m)."""
    return weight.shape[0] >= weight.shape[1]


def scale_weight(weight: Tensor, q: Tensor, d: Tensor) -> Tensor:
    """W' for d = z - 1 (r,), computed in float32 and cast once; W itself where d = 0."""
    w = weight.float()
    return (w + weight_delta(w, q, d)).to(weight.dtype)


def weight_delta(weight: Tensor, q: Tensor, d: Tensor) -> Tensor:
    """W' - W (m, n) in float32 for d = z - 1 (r,).

    The product of the square matrices comes first: 2 r^2 (r + M) operations with M = max(m, n), in place of 4 r^2 M.
    """
    w, q = weight.float(), q.float()
    turn = (q * d) @ q.T
    return w @ turn if is_tall(weight) else turn @ w


def fingerprint(weight: Tensor) -> str:
    """sha256 of shape, dtype and bytes of a weight.

    A weight is hashed once, and again only if its memory holds other numbers.
    """
    numbers = torch.hash_tensor(weight).view(torch.int64).item()  # one fast pass, on the device of the weight
    place = weight.data_ptr(), weight.shape, weight.stride(), weight.dtype, weight.device, numbers
    if place not in _FINGERPRINTS:
        _FINGERPRINTS[place] = _sha256(weight)
    return _FINGERPRINTS[place]


_FINGERPRINTS: dict[tuple, str] = {}
"""Of the weights of this process, by their place in memory and the sum of their numbers."""


def _sha256(weight: Tensor) -> str:
    data = weight.detach().cpu().contiguous()
    head = f"{tuple(data.shape)} {data.dtype} ".encode()
    return hashlib.sha256(head + data.view(torch.uint8).numpy().tobytes()).hexdigest()


def row_hashes(weight: Tensor) -> str:
    """sha256 of shape, dtype, first row and a hash of each row of a weight (m, n), made in one pass on its device.

    At least six times faster than `fingerprint` on a CPU. A row's hash is the exclusive or of its numbers, which sees
    neither their order nor an even number of changed signs. The first row tells weights apart whose columns are in
    another order or have another sign.
    """
    weight = weight.detach()
    hashes = torch.hash_tensor(weight, dim=1).view(torch.int64).cpu()
    first = weight[0].contiguous().cpu().view(torch.uint8)
    head = f"{tuple(weight.shape)} {weight.dtype} ".encode()
    return hashlib.sha256(head + first.numpy().tobytes() + hashes.numpy().tobytes()).hexdigest()


def matrix_files(model_folder: Path) -> dict[str, tuple[Path, str]]:
    """Module name -> (safetensors file, key) of every matrix that SVF may adapt."""
    places = {}
    for file in sorted(Path(model_folder).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (not a dict)
                if match := DECODER_MATRIX.fullmatch(key):
                    name = match["module"]
                    name = IN_MODELS + name.removeprefix(IN_FILES) if name.startswith(IN_FILES) else name
                    places[name] = (file, key)
    return places


def decoder_matrices(
    model_folder: Path, dtype: torch.dtype, block: int = 0, blocks: int = 1
) -> Iterator[tuple[str, Tensor]]:
    """(module name, weight (m, n)) of every matrix that SVF may adapt, one at a time from the folder's safetensors.

    Weights come in the dtype that the model runs in: a basis belongs to the weights that it was made from.

    Args:
        model_folder: of the model.
        dtype: that the model runs in.
        block: which one of several blocks of layers of about the same size, from 0.
        blocks: number of blocks.

    Raises:
        ValueError: there is no such block.
    """
    files = matrix_files(model_folder)
    layers = sorted({int(name.split(".layers.")[1].split(".")[0]) for name in files})
    if not 0 <= block < blocks <= max(len(layers), 1):
        raise ValueError(
            f"there is no block {block} of {blocks}: {len(layers)} layers make 1 to {len(layers)} blocks, from 0 on"
        )
    chosen = {*layers[block * len(layers) // blocks : (block + 1) * len(layers) // blocks]}
    for name, (file, key) in files.items():
        if int(name.split(".layers.")[1].split(".")[0]) in chosen:
            with safe_open(file, "pt") as tensors:
                yield name, tensors.get_tensor(key).to(dtype)


def join_bases(files: Sequence[Path], out: Path) -> int:
    """Joins files of `write_basis` into one; returns the number of matrices.

    Tensors are mapped from the files, and written from there: the process's own memory holds none of them.

    Raises:
        ValueError: two files hold the same matrix.
    """
    tensors: dict[str, Tensor] = {}
    fingerprints: dict[str, str] = {}
    hashes: dict[str, str] = {}
    for path in files:
        with safe_open(path, "pt") as file:
            of_file, hashes_of_file = _hashes_in(file.metadata())
            if both := of_file.keys() & fingerprints.keys():
                raise ValueError(f"{path} holds {min(both)}, and so does another of the files")
            fingerprints |= of_file
            hashes |= hashes_of_file
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    save_file(tensors, out, _metadata(fingerprints, hashes))
    return len(fingerprints)


def write_basis(matrices: Iterable[tuple[str, Tensor]], path: Path, device: str = "cpu") -> int:
    """Decomposes (module name, weight) pairs on a device into one safetensors file; returns their number."""
    tensors, fingerprints, hashes = {}, {}, {}
    for name, weight in tqdm(matrices, desc="singular value decomposition", unit="matrix"):
        basis = decompose(weight.to(device))
        tensors[f"{name}.q"], tensors[f"{name}.s"] = basis.q.cpu(), basis.s.cpu()
        fingerprints[name], hashes[name] = fingerprint(weight), row_hashes(weight)
    if not tensors:
        raise ValueError("no decoder matrix (…layers.<n>.…_proj.weight) in the model: SVF has nothing to decompose")
    save_file(tensors, path, _metadata(fingerprints, hashes))
    return len(fingerprints)


def _metadata(fingerprints: dict[str, str], hashes: dict[str, str]) -> dict[str, str]:
    return {"solver": SOLVER, "fingerprints": json.dumps(fingerprints), "row_hashes": json.dumps(hashes)}


def _hashes_in(metadata: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Fingerprints and row hashes by module name; files of before 0.2.0 have none of the latter."""
    return json.loads(metadata["fingerprints"]), json.loads(metadata.get("row_hashes", "{}"))


def singular_values(path: Path) -> dict[str, Tensor]:
    """s (r,) of every matrix in a file of bases, by module name, first layers first."""
    with safe_open(path, "pt") as file:
        names = [key.removesuffix(".s") for key in file.keys() if key.endswith(".s")]  # noqa: SIM118 (not a dict)
        by_layer = sorted(names, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")])
        return {name: file.get_tensor(f"{name}.s") for name in by_layer}


class BasisFile:
    """A basis written by `write_basis`, mapped into memory; a matrix is read once for each dtype and device.

    `open_bases` gives the one of this process: layers that scale the same matrix share its Q, also one after another.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._file = safe_open(self.path, "pt")
        self.fingerprints, self.row_hashes = _hashes_in(self._file.metadata())
        self._read: dict[tuple[str, torch.dtype, torch.device], Basis] = {}

    def load(self, name: str, weight: Tensor) -> Basis:
        """The basis of module `name`, in the dtype and on the device of its weight, which must be the decomposed one.

        Raises:
            ValueError: the file has no such module, or it belongs to other weights.
        """
        if name not in self.fingerprints:
            raise ValueError(f"{self.path} has no basis of {name}; was it made from another model?")
        if self.row_hashes.get(name) != row_hashes(weight) and self.fingerprints[name] != fingerprint(weight):
            raise ValueError(
                f"{self.path} does not belong to this model: the weight of {name} is another one; make it again"
            )
        place = name, weight.dtype, weight.device
        if place not in self._read:
            with torch.inference_mode(False):  # what is made in inference mode could not be trained with
                q, s = self._file.get_tensor(f"{name}.q"), self._file.get_tensor(f"{name}.s")
                self._read[place] = Basis(q.to(weight), s.to(weight.device))
        return self._read[place]


def open_bases(path: Path | str) -> BasisFile:
    """The file of bases at `path`, opened once as long as it has the same size and time of change.

    The process keeps the latest file, with all that was read of it, until `close_bases`.
    """
    facts = Path(path).stat()
    return _opened(Path(path).resolve(), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1)
def _opened(path: Path, _size: int, _mtime_ns: int) -> BasisFile:
    return BasisFile(path)


def close_bases() -> None:
    """Frees the bases that `open_bases` keeps, but for those that a layer uses."""
    _opened.cache_clear()
