# SPDX-License-Identifier: GPL-3.0-or-later
import errno
import os

import pytest
import torch

from server.checkpoint import Checkpoints, deserialize, load, load_optimizer, optimizer_tensors, save, serialize


def test_comes_back_bit_for_bit(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.tensor(1.5), "d": torch.randn(4, 4).T}
    save(tmp_path / "x.safetensors", tensors, {"phase": "volume", "seconds": {"render": 0.1}})
    back, state = load(tmp_path / "x.safetensors")
    assert state == {"phase": "volume", "seconds": {"render": 0.1}}
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_an_optimizer_goes_on_as_if_nothing_had_happened(tmp_path):
    def run(weight, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            ((weight - 3) ** 4).sum().backward()
            optimizer.step()

    torch.manual_seed(0)
    whole = torch.nn.Parameter(torch.randn(5))
    broken = torch.nn.Parameter(whole.detach().clone())
    first, second = torch.optim.Adam([whole], 0.1), torch.optim.Adam([broken], 0.1)
    run(whole, first, 10)
    run(broken, second, 4)
    save(tmp_path / "x.safetensors", {"weight": broken, **optimizer_tensors(second)}, {})
    tensors, _ = load(tmp_path / "x.safetensors")
    again = torch.nn.Parameter(tensors["weight"])
    third = torch.optim.Adam([again], 0.1)
    load_optimizer(third, tensors)
    run(again, third, 6)
    assert torch.equal(again, whole)


def test_keeps_the_newest_by_count_and_by_size(tmp_path):
    tensors = {"a": torch.zeros(1000)}
    several = Checkpoints(tmp_path / "some", count=3)
    assert several.newest() is None and several.step == -1
    for step in range(1, 6):
        several.save(step, tensors, {"step": step})
    assert several.step == 5 and several.newest()[1] == {"step": 5}
    assert [path.stem for path in sorted(several.folder.iterdir())] == ["000000003", "000000004", "000000005"]
    small = Checkpoints(tmp_path / "small", count=3, size=5000)
    for step in range(3):
        small.save(step, tensors, {})
    assert len(list(small.folder.iterdir())) == 1


@pytest.mark.parametrize("damage", [b"", b"nothing", b"\x10" + bytes(20)])
def test_a_damaged_one_is_passed_over(tmp_path, damage):
    several = Checkpoints(tmp_path)
    several.save(1, {"a": torch.ones(2)}, {"step": 1})
    several.save(2, {"a": torch.ones(2)}, {"step": 2})
    (tmp_path / "000000002.safetensors").write_bytes(damage)
    assert several.newest()[1] == {"step": 1}
    with pytest.raises(ValueError, match="cannot be read"):
        load(tmp_path / "000000002.safetensors")


def test_a_truncated_one_is_passed_over(tmp_path):
    several = Checkpoints(tmp_path)
    several.save(1, {"a": torch.ones(2000)}, {"step": 1})
    several.save(2, {"a": torch.ones(2000)}, {"step": 2})
    os.truncate(tmp_path / "000000002.safetensors", 4000)
    assert several.newest()[1] == {"step": 1}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_one(tmp_path, monkeypatch, call):
    several = Checkpoints(tmp_path)
    several.save(1, {"a": torch.ones(2)}, {"step": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        several.save(2, {"a": torch.ones(2)}, {"step": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["000000001.safetensors"]
    assert several.newest()[1] == {"step": 1}


def test_bytes_go_another_way_and_come_back_bit_for_bit(tmp_path):
    tensors, state = {"a": torch.randn(3, 4), "b": torch.arange(5)}, {"phase": "volume"}
    data = serialize(tensors, state)
    here = Checkpoints(tmp_path / "here")
    here.write(7, data)
    assert here.step == 7 and here.read() == (7, data)
    for back in (here.newest(), deserialize(data)):
        assert back[1] == state and all(torch.equal(back[0][name], tensors[name]) for name in tensors)


@pytest.mark.parametrize("damage", [b"", b"nothing", b"\x10" + bytes(20), serialize({"a": torch.ones(9)}, {})[:-1]])
def test_damaged_bytes_are_refused_and_their_file_is_passed_over(tmp_path, damage):
    with pytest.raises(ValueError, match="cannot be read"):
        deserialize(damage)
    several = Checkpoints(tmp_path)
    several.write(1, whole := serialize({"a": torch.ones(2)}, {}))
    several.write(2, damage)
    assert several.read() == (1, whole)
