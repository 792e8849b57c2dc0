"""The folder made of a 4-bit file encodes as a BERT model of the same weights does, token by token of its own vocabulary."""

import struct

import numpy as np
import pytest
from safetensors.numpy import load_file

from ospo_cli.errors import RetrievalError
from ospo_cli.params.retrieval import Dense
from ospo_cli.retrievers.dense import e5_file
from ospo_cli.retrievers.dense.transformer_encoder import TransformerEncoder

HIDDEN, LAYERS, HEADS, BETWEEN, ROWS, POSITIONS = 64, 2, 4, 96, 24, 40
PIECES = [
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "▁",
    "▁wool",
    "▁coat",
    "▁query",
    ":",
    "w",
    "o",
    "l",
    "c",
    "a",
    "t",
    "ü",
    "▁Z",
    "A",
    "1",
    "⁄",
    "2",
    "<mask>",
]
PARTS = {
    "q": (HIDDEN, HIDDEN),
    "k": (HIDDEN, HIDDEN),
    "v": (HIDDEN, HIDDEN),
    "ao": (HIDDEN, HIDDEN),
    "fi": (BETWEEN, HIDDEN),
    "fo": (HIDDEN, BETWEEN),
}


def quantised(values):
    """Return bytes and what they stand for, a weight at a time."""
    content, back = b"", []
    for block in values.reshape(-1, 32):
        scale = np.float16(np.abs(block).max() / 7)
        whole = [int(min(15, max(0, round(float(value) / float(scale)) + 8))) for value in block]
        content += scale.tobytes() + bytes(whole[j] | whole[j + 16] << 4 for j in range(16))
        back += [(number - 8) * float(scale) for number in whole]
    return content, np.array(back, dtype=np.float32).reshape(values.shape)


def write(path, seed=0):
    """Write a random model in the form of the package's file; return its weights by their names there."""
    rng = np.random.default_rng(seed)
    shapes = {
        "emb.word": (ROWS, HIDDEN),
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (2, HIDDEN),
        "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,),
    }
    for layer in range(LAYERS):
        for part, shape in PARTS.items():
            shapes |= {f"l{layer}.{part}.w": shape, f"l{layer}.{part}.b": shape[:1]}
        for norm in ("aln", "oln"):
            shapes |= {f"l{layer}.{norm}.w": (HIDDEN,), f"l{layer}.{norm}.b": (HIDDEN,)}
    kept, body, entries = {}, b"", []
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype(np.float32) * 0.3 + (name.endswith("n.w"))
        small = len(shape) == 2 and name not in ("emb.pos", "emb.type")
        content, kept[name] = quantised(values) if small else (values.astype("<f4").tobytes(), values.astype(np.float32))
        entries.append((name, int(small), values.size, len(body), len(content)))
        body += content
    blob = "".join(PIECES).encode()
    offsets = np.cumsum([0, *(len(piece.encode()) for piece in PIECES)]).astype("<u4").tobytes()
    scores = np.array([0, 0, 0, 0, *(-1 - 0.1 * index for index in range(len(PIECES) - 5)), 0], dtype="<f4").tobytes()
    head = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, HEADS, BETWEEN, ROWS, POSITIONS, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(blob)) + offsets + scores + blob + struct.pack("<iI", 1, 6) + b"\0" * 6
    size = len(head) + 4 + sum(23 + len(name) for name, *_ in entries)
    directory = struct.pack("<i", len(entries))
    for name, kind, count, offset, length in entries:
        directory += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, count, size + offset, length)
    path.write_bytes(head + directory + body)
    return kept


def vector(kept, ids):
    """Return the normalised mean of the last layer, computed in NumPy from the weights."""
    from scipy.special import erf

    def norm(x, name):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-12) * kept[f"{name}.w"] + kept[f"{name}.b"]

    def linear(x, name):
        return x @ kept[f"{name}.w"].T + kept[f"{name}.b"]

    x = norm(kept["emb.word"][ids] + kept["emb.pos"][: len(ids)] + kept["emb.type"][0], "emb.ln")
    for layer in range(LAYERS):
        q, k, v = (linear(x, f"l{layer}.{part}").reshape(len(ids), HEADS, -1).swapaxes(0, 1) for part in "qkv")
        scores = q @ k.swapaxes(1, 2) / np.sqrt(HIDDEN / HEADS)
        weights = np.exp(scores - scores.max(2, keepdims=True))
        mixed = (weights / weights.sum(2, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), HIDDEN)
        x = norm(x + linear(mixed, f"l{layer}.ao"), f"l{layer}.aln")
        inner = linear(x, f"l{layer}.fi")
        x = norm(x + linear(inner * 0.5 * (1 + erf(inner / np.sqrt(2))), f"l{layer}.fo"), f"l{layer}.oln")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@pytest.fixture
def made(tmp_path):
    kept = write(tmp_path / "small.bin")
    (tmp_path / "folder").mkdir()
    e5_file.write(tmp_path / "small.bin", tmp_path / "folder")
    return kept, tmp_path / "folder"


@pytest.mark.parametrize("text", ["wool coat", "Zürich", "wool\u200bcoat\t Ａ ½", "talc \x07coat"])
def test_the_folder_encodes_as_the_weights_in_the_file_do(made, text):
    kept, folder = made
    encoder = TransformerEncoder(folder, Dense(encoder="./e5", query_prefix="query: ", max_length=POSITIONS))
    ids = encoder._tokenizer.encode(f"query: {text}").ids
    assert np.allclose(encoder.encode([text], "query")[0], vector(kept, ids), atol=1e-5)


def test_texts_are_cut_into_the_pieces_of_the_vocabulary(made):
    _, folder = made
    encode = TransformerEncoder(folder, Dense(encoder="./e5", max_length=POSITIONS))._tokenizer.encode
    assert encode("wool coat").tokens == ["<s>", "▁wool", "▁coat", "</s>"]
    assert encode(" wool\u200b\x07\tcoat ").tokens == ["<s>", "▁wool", "▁coat", "</s>"]
    assert encode("Ａ½").tokens[1:-1] == ["▁", "A", "1", "⁄", "2"]
    assert encode("Zu\u0308").tokens[1:-1] == ["▁Z", "ü"]
    assert encode("wool 鞋").ids[-2] == 3


def test_every_weight_is_named_and_shaped_as_in_transformers(made):
    from transformers import AutoConfig, AutoModel

    _, folder = made
    expected = {
        name: tuple(weight.shape) for name, weight in AutoModel.from_config(AutoConfig.from_pretrained(folder)).state_dict().items()
    }
    found = {name: weight.shape for name, weight in load_file(folder / "model.safetensors").items()}
    assert found == {name: shape for name, shape in expected.items() if not name.startswith("pooler.")}


@pytest.mark.parametrize("change", [lambda content: b"GGUF" + content[4:], lambda content: content[:90], lambda content: content[:-10]])
def test_a_file_of_another_kind_or_cut_short_is_one_line(tmp_path, change):
    write(tmp_path / "small.bin")
    (tmp_path / "small.bin").write_bytes(change((tmp_path / "small.bin").read_bytes()))
    with pytest.raises(RetrievalError, match="is not the 4-bit file that is known here"):
        e5_file.write(tmp_path / "small.bin", tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
