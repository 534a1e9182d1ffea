"""Bad input: one line that names the thing and the remedy, and nothing was started."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from luciole.deploy.cli import main, make_parser
from luciole.deploy.cluster_directory import ClusterDirectory, ports_of, services_of
from luciole.deploy.local_cluster import Shape, prepare
from luciole.deploy.ports import find_block


@pytest.fixture
def cluster(tmp_path: Path) -> ClusterDirectory:
    """A cluster that was made and never started."""
    directory = ClusterDirectory(tmp_path / "cluster")
    directory.path.mkdir()
    prepare(directory, Shape(nodes=2, replicas=2, targets_per_node=1))
    return directory


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that must fail; returns its error line."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("luciole: error: ")]
    assert len(lines) == 1
    return lines[0]


def nothing_started(directory: ClusterDirectory) -> bool:
    return not list(directory.run.glob("*.pid"))


@pytest.mark.parametrize(("arguments", "words"), [
    (["--nodes", "1", "--replicas", "2"], "more nodes, or fewer replicas"),
    (["--nodes", "3", "--replicas", "2", "--targets-per-node", "1"], "--targets-per-node"),
    (["--nodes", "0"], "nodes"),
    (["--replicas", "-1"], "replicas"),
    (["--managers", "4"], "managers"),
    (["--metas", "0"], "metas"),
    (["--nodes", "3", "--port-base", "65530"], "choose a smaller one"),
])
def test_impossible_shapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert words in refused(capsys, "up", str(tmp_path / "c"), *arguments)
    assert not (tmp_path / "c").exists()


def test_foreign_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    assert "not empty and holds no cluster" in refused(capsys, "up", str(tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_instead_of_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c").write_text("")
    assert "not a directory" in refused(capsys, "up", str(tmp_path / "c"))


def test_interrupted_creation_is_made_again(tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mgmtd.toml").write_text("half")
    directory.check_usable()
    prepare(directory, Shape(nodes=1, replicas=1))
    assert directory.read().nodes == 1
    assert directory.client_config().cluster_id == directory.read().cluster_id


def test_newer_format(
    cluster: ClusterDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    (cluster.path / "cluster.toml").write_text("format = 2\nshards = 9\n")
    for command in ("up", "down", "status"):
        assert "newer version" in refused(capsys, command, str(cluster.path))


def test_a_cluster_made_before_there_could_be_several_managers(
    cluster: ClusterDirectory
) -> None:
    path = cluster.path / "cluster.toml"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(
        line for line in lines if not line.startswith(("managers", "metas"))))
    assert (cluster.read().managers, cluster.read().metas) == (1, 1)
    assert [service.name for service in services_of(cluster.read())] == [
        "mgmtd", "meta", "storage-1", "storage-2"]


def test_power_is_kept_by_clusters_made_before_names_could_do_without(tmp_path: Path) -> None:
    directory = ClusterDirectory(tmp_path / "cluster")
    directory.path.mkdir()
    shape = Shape(nodes=1, replicas=1, durability="power", metas=2)
    prepare(directory, shape)
    files = [directory.config_file(name) for name in ("meta", "meta-2")]
    made = [file.read_text() for file in files]
    for file, text in zip(files, made, strict=True):
        assert 'durability = "power"\n' in text
        file.write_text(text.replace('durability = "power"\n', ""))
    prepare(directory, shape)
    assert [file.read_text() for file in files] == made


def test_other_shape_than_the_cluster_has(
    cluster: ClusterDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "up", str(cluster.path), "--nodes", "4")
    assert "nodes = 2, which cannot become 4" in line
    assert nothing_started(cluster)


@pytest.mark.parametrize("name", ["mgmtd", "meta", "storage-2", "client"])
def test_unknown_key_in_a_configuration_file(
    cluster: ClusterDirectory, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = cluster.config_file(name)
    path.write_text(path.read_text() + "colour = 1\n")
    line = refused(capsys, "up", str(cluster.path))
    assert "colour" in line
    assert str(path) in line
    assert nothing_started(cluster)


@pytest.fixture
def taken_port(cluster: ClusterDirectory) -> Iterator[int]:
    # Another suite on this machine may have taken a port of the block since it was chosen.
    for base in range(cluster.read().port_base, 65_000, 16):
        prepare(cluster, Shape(port_base=base))
        try:
            held = socket.create_server(("127.0.0.1", base + 4))
        except OSError:
            continue
        with held:
            yield base + 4
        return


def test_port_in_use(
    cluster: ClusterDirectory, taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "up", str(cluster.path))
    for part in (f"port {taken_port} is in use", "storage-1 of", "--port-base"):
        assert part in line
    assert nothing_started(cluster)


def test_a_stopped_cluster_moves_to_other_ports(
    cluster: ClusterDirectory, taken_port: int
) -> None:
    base = find_block(8)
    prepare(cluster, Shape(port_base=base))
    assert cluster.read().port_base == base
    assert cluster.client_config().mgmtd == [f"127.0.0.1:{base}"]
    assert f"rpc_port = {base + 4}\n" in cluster.config_file("storage-1").read_text()


@pytest.mark.parametrize(("make", "words"), [
    (None, "mkdir -p"), ("file", "not a directory"), ("full", "not empty")])
def test_mount_points(
    cluster: ClusterDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    make: str | None, words: str,
) -> None:
    place = tmp_path / "mnt"
    if make == "file":
        place.write_text("")
    elif make == "full":
        place.mkdir()
        (place / "a").write_text("")
    assert words in refused(capsys, "up", str(cluster.path), "--mount", str(place))
    assert words in refused(capsys, "mount", str(place), "--dir", str(cluster.path))
    assert nothing_started(cluster)


def test_something_else_is_mounted_there(
    cluster: ClusterDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "type proc is mounted there" in refused(
        capsys, "mount", "/proc", "--dir", str(cluster.path))
    assert "no luciole is mounted there" in refused(capsys, "umount", "/proc")


def test_two_commands_at_once(
    cluster: ClusterDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    with cluster.locked():
        assert "another luciole command" in refused(capsys, "up", str(cluster.path))
    with cluster.locked():
        pass  # free again


def test_no_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["down", "X"], ["status", "X"], ["fsck", "--dir", "X"],
                    ["mount", "/mnt", "--dir", "X"], ["config", "get", "meta", "--dir", "X"]):
        words = [str(tmp_path) if word == "X" else word for word in command]
        assert "there is no cluster here" in refused(capsys, *words)


def test_service_says_why_it_does_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "meta.toml"
    path.write_text("chunk_size = 100000\n")
    assert str(path) in refused(capsys, "meta", "serve", "--config", str(path))
    assert "cannot read" in refused(
        capsys, "storage", "serve", "--config", str(tmp_path / "absent.toml"))


@pytest.mark.parametrize("command", [
    [], ["up"], ["down"], ["status"], ["mount"], ["umount"], ["fsck"], ["config"],
    ["config", "get"], ["config", "set"], ["node"], ["node", "enable"], ["node", "disable"],
    ["node", "drain"], ["mgmtd", "serve"], ["meta", "serve"],
    ["storage", "serve"]])
def test_every_command_has_help_with_an_example(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args([*command, "--help"])
    assert ended.value.code == 0
    assert "example: " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [
    ["up", "--timeout", "0"], ["up", "--timeout", "nan"], ["up", "--port-base", "80"],
    ["config", "get", "cooking"], ["storage"], []])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        make_parser().parse_args(arguments)
    assert ended.value.code == 2
    assert "usage: luciole" in capsys.readouterr().err


def test_ports_do_not_overlap(cluster: ClusterDirectory) -> None:
    text = "".join(path.read_text() for path in sorted(cluster.config.iterdir()))
    ports = [line for line in text.splitlines() if line.startswith(("rpc_port", "grpc_port"))]
    assert len({line.split(" = ")[1] for line in ports}) == len(ports) == 8
    larger = ClusterDirectory(cluster.path.parent / "larger")
    larger.path.mkdir()
    file = prepare(larger, Shape(nodes=2, managers=3, metas=2, targets_per_node=1))
    numbers = [port for service in services_of(file)
               for port in ports_of(service, file.port_base)]
    assert sorted(numbers) == list(range(file.port_base, file.port_base + 14))
    managers = larger.client_config().mgmtd
    assert len(managers) == 3
    assert all(f"{managers}".replace("'", '"') in larger.config_file(service.name).read_text()
               for service in services_of(file) if service.kind != "mgmtd")
    assert os.path.commonpath([cluster.config, cluster.path]) == str(cluster.path)
