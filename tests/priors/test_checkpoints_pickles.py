"""Pickles read safely: what is plain comes back, what could run code is refused, damage ends in one line."""

from __future__ import annotations

import collections
import contextlib
import pickle
import pickletools
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attacks import (
    ATTACKS,
    CODE,
    LINEAR,
    WITNESS,
    RunsCode,
    call,
    items,
    mapping,
    named,
    number,
    raw,
    registered,
    stacked,
    storage,
    stored,
    tensor,
    text,
    whole,
)
from helpers import randn
from torch import nn

from invdiff.priors.checkpoints.container import open_contents
from invdiff.priors.checkpoints.pickles import read_pickle
from invdiff.priors.checkpoints.records import DEEPEST, Record, state_dict

TINY = Path(__file__).parents[1] / "data" / "edm_tiny.pkl"


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(data: bytes) -> Any:
    path = Path("some.pkl")
    path.write_bytes(data)
    return read_pickle(path)


def refusal(data: bytes) -> str:
    """Return the one line with which the reader refuses ``data``; nothing was executed."""
    with pytest.raises(ValueError) as caught:
        read(data)
    message = str(caught.value)
    assert message.startswith("some.pkl: ")
    assert message.isprintable()
    assert len(message) < 500
    assert type(caught.value) is ValueError
    assert not Path(WITNESS).exists()
    return message


# What is refused beside: it need not be shown to work.
GADGETS = """
torch.load torch.hub.load torch.serialization.load torch.jit.load torch.utils.model_zoo.load_url torch.ops.load_library
numpy.load numpy.fromfile numpy.memmap numpy.ctypeslib.load_library ctypes.CDLL builtins.open builtins.compile
builtins.__import__ builtins.setattr builtins.type builtins.object builtins.list io.open _io.FileIO marshal.loads
pickle.loads types.FunctionType types.CodeType code.interact pdb.run runpy.run_path shutil.rmtree webbrowser.open
socket.socket urllib.request.urlopen copyreg._reconstructor copyreg.__newobj__ copy_reg._reconstructor weakref.finalize
threading.Thread atexit.register sys.modules collections.defaultdict collections.UserDict dnnlib.util.open_url
dnnlib.util.get_obj_by_name training.networks.EDMPrecond torch_utils.persistence.import_hook
torch_utils.persistence._src_to_module torch.storage.UntypedStorage torch.FloatStorage torch.Tensor
torch._utils._rebuild_tensor torch._tensor._rebuild_from_type_v2 torch.nn.Linear torch.nn.functional.relu
torch.nn.modules.utils._single torch.nn.modules torch.nn.modules.linear numpy.core.multiarray.fromfile
numpy.dtypes.StrDType
"""


@pytest.mark.parametrize("name", ATTACKS)
class TestAttacks:
    def test_refused(self, name: str) -> None:
        body, what = ATTACKS[name]
        with registered(exec, 0xF0):
            message = refusal(whole(body))
        assert what in message
        assert "could run code when read: it was refused, and nothing was executed" in message or "in a form not" in message

    def test_it_is_one(self, name: str) -> None:
        Path("some.pkl").write_bytes(whole(ATTACKS[name][0]))
        with registered(exec, 0xF0), Path("some.pkl").open("rb") as file, contextlib.suppress(Exception):
            pickle.load(file)
        assert Path(WITNESS).exists()


class TestRefused:
    @pytest.mark.parametrize("name", GADGETS.split())
    @pytest.mark.parametrize("way", ["REDUCE", "INST", "NEWOBJ", "left as it is"])
    def test_other_names(self, name: str, way: str) -> None:
        module, _, last = name.rpartition(".")
        body = {
            "REDUCE": call(named(module, last), text("a")),
            "INST": b"(" + text("a") + f"i{module}\n{last}\n".encode(),
            "NEWOBJ": stacked(module, last) + items(text("a")) + b"\x81",
            "left as it is": stacked(module, last),
        }[way]
        assert name in refusal(whole(body))

    def test_known_names_divided_elsewhere(self) -> None:
        for module, name in (("torch", "storage._load_from_bytes"), ("torch.nn", "modules.linear.Linear"), ("", "torch.Size")):
            assert f"{module}.{name}" in refusal(whole(stacked(module, name)))

    def test_names_that_would_print_badly(self) -> None:
        assert r"a\x1b[31m.b\nc" in refusal(whole(stacked("a\x1b[31m", "b\nc")))
        refusal(whole(stacked("a" * 10**6, "b")))

    @pytest.mark.parametrize("body", [b"Pname\n", text("name") + b"Q", items(text("storage"), b"N") + b"Q"])
    def test_persistent_identities(self, body: bytes) -> None:
        assert "PERSID, which could run code" in refusal(whole(body))
        refusal(whole(tensor(stored(body))))

    @pytest.mark.parametrize("body", [b"\x97", b"]\x98"])
    def test_buffers_from_elsewhere(self, body: bytes) -> None:
        assert "_BUFFER, which" in refusal(whole(body, 5))

    @pytest.mark.parametrize(
        "target",
        [
            named("collections", "OrderedDict"),
            named("torch.storage", "_load_from_bytes"),
            named("torch.nn.modules.linear", "Linear"),
            named("torch", "float32"),
            tensor(),
            stored(),
            b"]",
            b")",
            b"\x8f",
            text("text"),
            b"N",
        ],
    )
    @pytest.mark.parametrize("state", [b"}", mapping(a=b"N"), b"N" + mapping(__defaults__=b")") + b"\x86", b"]", b"N", b")"])
    def test_state_for_what_has_none(self, target: bytes, state: bytes) -> None:
        message = refusal(whole(target + state + b"b"))
        assert "a state for" in message or "damaged" in message

    def test_calls_of_what_is_no_name(self) -> None:
        for target in (b"N", text("os.system"), tensor(), LINEAR, b"]", call(named("collections", "OrderedDict"))):
            assert "damaged" in refusal(whole(call(target, text("a"))))
            assert "damaged" in refusal(whole(target + b")\x81"))
        assert "a call of torch.nn.modules.linear.Linear" in refusal(whole(call(named("torch.nn.modules.linear", "Linear"))))
        assert "an object of _codecs.encode" in refusal(whole(named("_codecs", "encode") + b")\x81"))
        assert "made from arguments" in refusal(whole(named("torch.nn.modules.linear", "Linear") + items(b"N") + b"\x81"))
        assert "made from arguments" in refusal(whole(named("builtins", "dict") + b")" + mapping(a=b"N") + b"\x92"))

    def test_names_left_in_the_data(self) -> None:
        assert "collections.OrderedDict, which" in refusal(whole(b"](" + named("collections", "OrderedDict") + b"e"))
        assert "a storage without a shape" in refusal(whole(mapping(a=stored())))

    @pytest.mark.parametrize("kind", ["O", "O8", "V8", "U5", "S5", "M8", "m8", "f16", ">f8", "f8,f8", "(2,)f8", "object"])
    def test_arrays_of_other_than_numbers(self, kind: str) -> None:
        assert "an array of type" in refusal(whole(call(named("numpy", "dtype"), text(kind), b"\x89", b"\x88")))

    def test_objects_in_arrays(self) -> None:
        for value in (np.array([None, RunsCode()]), np.array([RunsCode()]), np.zeros(2, "U3"), np.zeros(2, ">f8")):
            for protocol in (2, 4, 5):
                refusal(pickle.dumps({"a": value}, protocol))


class TestRecord:
    HOSTILE = ("__class__", "__dict__", "__reduce__", "__setstate__", "__getattr__", "__init__", "name", "state", "__del__")

    def test_attributes_of_an_object_stay_entries(self) -> None:
        state = mapping(**{name: text("hostile") for name in self.HOSTILE})
        record = read(whole(LINEAR + state + b"b"))
        meta = mapping(type=text("class"), version=number(6), module_src=CODE, class_name=text("Net"), state=state)
        made = read(whole(call(named("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)))
        for each, name in ((record, "torch.nn.modules.linear.Linear"), (made, "Net")):
            assert type(each) is Record
            assert each.name == name
            assert each.state == dict.fromkeys(self.HOSTILE, "hostile")
            assert vars(each).keys() == {"name", "state"}
        assert "hostile" not in repr(vars(Record))
        assert not Path(WITNESS).exists()

    @pytest.mark.parametrize("state", [b"N", b"]", text("a"), b"N" + mapping(a=b"N") + b"\x86", items(b"N", b"N", b"N")])
    def test_state_of_another_form(self, state: bytes) -> None:
        assert "damaged" in refusal(whole(LINEAR + state + b"b"))

    @pytest.mark.parametrize(
        "meta", [b"N", b"}", mapping(state=b"]", class_name=text("A")), mapping(state=b"}", class_name=b"N")]
    )
    def test_persistent_objects_of_another_form(self, meta: bytes) -> None:
        assert "damaged" in refusal(whole(call(named("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)))

    def test_modules_that_hold_themselves(self) -> None:
        record = Record("Ring")
        record.state["_modules"] = {"next": record}
        with pytest.raises(ValueError, match="Ring contains itself"):
            state_dict(record)
        for _ in range(40):  # twice the one before, each time
            record = Record(
                "Tree", {"_modules": {"a": record, "b": record}, "_parameters": 3, "_non_persistent_buffers_set": 1}
            )
        with pytest.raises(ValueError, match="too many modules"):
            state_dict(record)


class TestDamage:
    @pytest.mark.slow
    def test_every_place_where_a_file_may_end(self) -> None:
        data = pickle.dumps({"a": [1, 2.5, "b", (b"c", None)], "d": torch.ones(2, 3), "e": np.ones(3)})
        assert read(data)["d"].shape == (2, 3)
        for end in range(1, len(data), 4):
            assert "is damaged or cut off" in refusal(data[:end])
        genuine = TINY.read_bytes()
        for end in range(7, len(genuine), len(genuine) // 40):
            assert "is damaged or cut off" in refusal(genuine[:end])

    @pytest.mark.slow
    def test_bytes_that_changed(self) -> None:
        """Whatever stands in the file, reading ends in data or in one line, and runs nothing."""
        plain = {"a": [1, 2.5, "b", (b"c", None)], "d": torch.ones(2, 3), "e": {1, 2}, "f": np.ones(3)}
        data = pickle.dumps(plain | {"g": collections.OrderedDict(h=nn.Identity())}, 4)
        chance = random.Random(0)
        opcodes = [ord(opcode.code) for opcode in pickletools.opcodes]
        readable = 0
        for _ in range(300):
            changed = bytearray(data)
            for _ in range(chance.choice((1, 1, 3))):
                changed[chance.randrange(len(data))] = chance.choice((chance.randrange(256), chance.choice(opcodes)))
            try:
                read(bytes(changed))
                readable += 1
            except ValueError:
                refusal(bytes(changed))
        assert 0 < readable < 300

    def test_no_pickle(self) -> None:
        for data in (b"", b"\x80", b"\x80\x04", b"\x80\x04.", b"\xff" * 9, b"hello", whole(b"0"), whole(b"u"), whole(b"N\x87")):
            assert "is damaged or cut off" in refusal(data)
        with pytest.raises(FileNotFoundError):
            read_pickle(Path("nowhere.pkl"))

    @pytest.mark.parametrize(
        "body",
        [
            b"B\xff\xff\xff\xff",
            b"\x8e" + struct.pack("<Q", 2**63 - 1),
            b"\x8e" + struct.pack("<Q", 2**38),
            b"\x8d" + struct.pack("<Q", 2**40),
            b"\x96" + struct.pack("<Q", 2**40),
            b"\x8b" + struct.pack("<i", 2**31 - 1),
            b"I" + b"9" * 10**5 + b"\n",
            b"Nr\xff\xff\xff\xff" + b"j\xfe\xff\xff\xff",  # an entry of the memo far away
            call(named("builtins", "bytearray"), number(2**40)),
            call(named("builtins", "bytes"), number(2**40)),
            call(named("torch", "Size"), items(number(2**70))),
            call(named("torch", "Size"), items(number(-1))),
            call(named("torch", "device"), b")", number(1)),
            tensor(size=(2**39,), stride=(0,)),
            tensor(size=(2**20, 2**20), stride=(0, 0)),
            tensor(size=(2**32, 2**32), stride=(0, 0)),
            tensor(size=(2**39,) * 15 + (2,), stride=(0,) * 16),
            tensor(size=(3,)),
            tensor(size=(2,), stride=(2,)),
            tensor(offset=1),
            tensor(offset=-1),
            tensor(size=(-2,)),
            tensor(stride=(-1,)),
            tensor(size=(2, 1)),
            tensor(b"N"),
            tensor(stored(count=2**60)),
            tensor(stored(count=3)),
            tensor(stored(count=-1)),
            tensor(stored(values=b"")),
            tensor(stored(little_endian=False)),
            tensor(stored(b"N")),
            tensor(stored(b"N" * 3 + b"\x87")),
            call(named("torch._utils", "_rebuild_parameter"), b"N"),
            call(named("torch._utils", "_rebuild_tensor_v2")),
            call(named("torch.storage", "_load_from_bytes"), b"N"),
            call(named("torch.storage", "_load_from_bytes"), raw(b"")),
            call(named("_codecs", "encode"), text("a"), text("rot13")),
            call(named("_codecs", "encode"), b"N", text("latin1")),
            call(named("numpy.core.multiarray", "scalar"), b"N", raw(b"a")),
            call(named("numpy.core.numeric", "_frombuffer"), text("a"), b"N", b")", text("C")),
            call(named("collections", "OrderedDict"), text("abc")),
            call(named("collections", "OrderedDict")) + b"NNs" + b"NNNu",
            b"}" + items(b"N") + b"Ns",
            b"}(" + text("a") + b"u",
            b"(" + items(b"N") + b"\x91",
            text("a") + text("b") + b"a",
            tensor() + number(0) + number(1) + b"s",
            b"]]r",
        ],
    )
    def test_sizes_and_arguments_that_make_no_sense(self, body: bytes) -> None:
        refusal(whole(body))

    def test_little_that_asks_for_much(self) -> None:
        data = raw(storage(count=10**4, values=b"\0" * 4 * 10**4)) + b"\x940"
        many = data + call(named("torch.storage", "_load_from_bytes"), b"h\0") * 100
        assert "builds more data than the file holds" in refusal(whole(many))
        array = raw(b"\0" * 10**4) + b"\x940" + call(named("numpy", "dtype"), text("f4")) + b"\x940"
        many = array + call(named("numpy._core.numeric", "_frombuffer"), b"h\0", b"h\1", items(number(2500)), text("C")) * 100
        assert "builds more data than the file holds" in refusal(whole(many))
        text_once = text("a" * 10**4) + b"\x940"
        assert "builds more" in refusal(whole(text_once + call(named("_codecs", "encode"), b"h\0", text("latin1")) * 100))

    def test_too_deep(self) -> None:
        for body in (b"]" * 10**4 + b"a" * (10**4 - 1), b")" + b"\x85" * 2 * 10**4, b"(" * 10**4 + b"t" * 10**4):
            assert f"nested deeper than {DEEPEST}" in refusal(whole(body))
        assert "a key of type tuple" in refusal(whole(b"})" + b"\x85" * 10**4 + b"Ns"))
        assert read(whole(b"]" * 50 + b"a" * 49))

    def test_lists_that_hold_themselves(self) -> None:
        ring: list[Any] = [1]
        ring.append(ring)
        found = read(pickle.dumps(ring))
        assert found[1] is found


class TestPlainData:
    @pytest.mark.parametrize("protocol", [2, 3, 4, 5])
    def test_comes_back(self, protocol: int) -> None:
        shared = [1]
        data = {
            "numbers": [0, -1, 255, 2**31, -(2**80), 1.5, float("inf"), True, False, None],
            "text": ["", "a", "\u00e9\u4e2d", "x" * 300],
            "bytes": [b"", b"a\xff", bytearray(b"ab")],
            "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
            "sets": [set(), {1, 2}, frozenset({"a"})],
            "nested": collections.OrderedDict([("a", {"b": [shared, shared]})]),
            3: "a number as a key",
        }
        found = read(pickle.dumps(data, protocol))
        assert found == data
        assert found["nested"]["a"]["b"][0] is found["nested"]["a"]["b"][1]
        assert type(found["nested"]) is dict

    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_tensors(self, protocol: int) -> None:
        plain = randn(4, 3)
        data = [plain, plain.T, plain[1:, ::2], plain[0, 0], plain[:0], torch.empty(0), nn.Parameter(plain.clone())]
        data += [
            plain.to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
        ]
        for theirs, ours in zip(data, read(pickle.dumps(data, protocol)), strict=True):
            assert type(ours) is torch.Tensor
            assert (ours.dtype, ours.stride()) == (theirs.dtype, theirs.stride())
            assert torch.equal(ours, theirs)
        kinds = [torch.float32, torch.bfloat16, torch.Size([2, 3]), torch.device("cpu"), torch.device("cuda", 1)]
        assert read(pickle.dumps(kinds, protocol)) == [torch.float32, torch.bfloat16, torch.Size([2, 3]), "cpu", "cuda:1"]

    @pytest.mark.parametrize("protocol", [2, 4, 5])
    def test_arrays(self, protocol: int) -> None:
        plain = np.arange(12.0).reshape(3, 4)
        data = [plain, np.asfortranarray(plain), plain[::2], np.float32(1.5) * plain, np.array(3), np.array([], np.int8)]
        data += [plain > 3, plain.astype(np.uint16), plain.astype(np.complex64)]
        found = read(pickle.dumps(data, protocol))
        for theirs, ours in zip(data, found, strict=True):
            np.testing.assert_array_equal(theirs, ours, strict=True)
        numbers = [np.float64(0.5), np.float32(1.5), np.int64(-3), np.bool_(True)]
        assert read(pickle.dumps(numbers, protocol)) == [0.5, 1.5, -3, True]
        assert read(pickle.dumps(numbers, protocol).replace(b"_core", b"core", 1 if protocol < 4 else 0)) == numbers

    def test_modules(self) -> None:
        net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ModuleDict({"a": nn.Linear(2, 2)}))
        net[1].register_buffer("passing", torch.zeros(1), persistent=False)
        record = read(pickle.dumps(net))
        assert record.name == "torch.nn.modules.container.Sequential"
        ours, theirs = state_dict(record), net.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        weights = read(pickle.dumps(theirs))  # with attributes of the dictionary, which are dropped
        assert weights.keys() == theirs.keys()

    def test_a_genuine_checkpoint(self) -> None:
        assert b"SystemExit" in TINY.read_bytes()  # in its source code, which is neither run nor kept
        contents = open_contents(TINY)
        assert contents.kind == "pickle"
        assert set(contents.data) == {"ema", "loss_fn", "augment_pipe", "dataset_kwargs"}
        record = contents.data["ema"]
        assert (record.name, record.state["sigma_data"], record.state["_init_kwargs"]["dropout"]) == ("EDMPrecond", 0.5, 0.13)
        assert len(state_dict(record)) == 71
        assert state_dict(record)["model.map_layer0.weight"].shape == (16, 8)
