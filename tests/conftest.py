"""How cases reach the laws; and fixtures of the tests of the command: a tiny prior, and the command run in this process."""

from __future__ import annotations

import os

# Small tensors are fastest on one thread, and as many tests run at a time as there are cores. Before torch is imported, and in
# the environment, so that commands which tests start add in the same order.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from cases import Case, chosen_device, select
from click.testing import CliRunner
from simulated_device import DEVICE, simulated_device

from invdiff.cli import main
from invdiff.priors import UNet, save_prior

SIMULATED = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the laws are held: cpu, cuda, cuda:1, ..., or simulated")
    parser.addoption("--only", metavar="CLASS", help="run only the laws over cases of this class, such as Mask")


def pytest_configure(config):
    # Before the tests are listed, and long before cases are built.
    name = config.getoption("--device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise pytest.UsageError(f"--device {name}: PyTorch finds no CUDA GPU here. --device simulated needs none.")
    if name == "simulated":
        config.stash[SIMULATED] = simulated_device()
        config.stash[SIMULATED].__enter__()
    device = DEVICE if name == "simulated" else torch.device(name)
    select(config.getoption("--only"), quick=config.getoption("-m") == "not slow", device=device)


def pytest_unconfigure(config):
    if SIMULATED in config.stash:
        config.stash[SIMULATED].__exit__(None, None, None)


def pytest_collection_modifyitems(config, items):
    """Leave out whatever is not about cases of the class that ``--only`` names."""
    if config.getoption("--only") is None:
        return
    chosen = [item for item in items if any(isinstance(value, Case) for value in cases_of_item(item))]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Build the cases that a test takes, just before it runs."""
    for name, value in pyfuncitem.funcargs.items():
        if isinstance(value, Case):
            pyfuncitem.funcargs[name] = value.build()


def cases_of_item(item):
    return item.callspec.params.values() if hasattr(item, "callspec") else ()


@pytest.fixture
def device():
    """The device of ``--device``, which cases are on."""
    return chosen_device()


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory):
    """A checkpoint whose network is random: what it makes is noise, but made by every step of the way."""
    net = UNet(widths=(4, 8), blocks=(1, 1), embedding=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    save_prior(net, path, sigma_data=0.5, facts={"steps": 7, "images_seen": 1234, "license": "CC0"})
    return path


@pytest.fixture
def invdiff(tmp_path, monkeypatch):
    """The command, in an empty folder: ``invdiff("solve", "photo.png", code=1)`` runs it and checks the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INVDIFF_DEBUG", raising=False)

    def invoke(*arguments, code=0):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return invoke


@pytest.fixture
def solve(invdiff, tiny_prior):
    """``invdiff solve`` with the tiny prior and few steps; what a test gives comes last, and wins."""

    def invoke(*arguments, code=0):
        few = ("--prior", tiny_prior, "--precision", "float32", "--steps", 2, "--samples", 2)
        return invdiff("solve", *few, *arguments, code=code)

    return invoke
