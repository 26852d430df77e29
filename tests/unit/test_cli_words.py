import io

import click
import pytest
from click.testing import CliRunner

from stackctl.cli import words


def converted(kind: click.ParamType, text: str):
    return kind.convert(text, None, None)


@pytest.mark.parametrize(
    ("unit", "text", "value"),
    [
        ("G", "4", 4),
        ("G", "4G", 4),
        ("G", "4GiB", 4),
        ("M", "4g", 4096),
        ("G", "2T", 2048),
        ("G", "1024M", 1),
    ],
)
def test_size(unit, text, value):
    assert converted(words.Size(unit), text) == value


@pytest.mark.parametrize("text", ["", "-1", "4X", "1.5G", "512M", "9" * 30])
def test_size_refused(text):
    with pytest.raises(click.BadParameter):
        converted(words.Size("G"), text)


def test_pair():
    assert converted(words.Pair(), "role=a=b") == ("role", "a=b")
    for text in ("role", "=x"):
        with pytest.raises(click.BadParameter):
            converted(words.Pair(), text)


def test_fields():
    nic = words.Fields("net", "port", "fixed-ip")
    assert converted(nic, "net=a,fixed-ip=10.0.0.9") == {"net": "a", "fixed-ip": "10.0.0.9"}
    for text in ("net=", "net=a,net=b", "mac=1", "net", "net=a,"):
        with pytest.raises(click.BadParameter, match="fixed-ip"):
            converted(nic, text)


def test_fields_with_a_list():
    option = words.Fields("name", "value", "ip-version", list_key="value")
    assert converted(option, "name=x,value=1,a=2,3,ip-version=4") == {
        "name": "x",
        "value": "1,a=2,3",
        "ip-version": "4",
    }
    for text in ("name=a,b", "value=1,value=2", "value=1,,ip-version=4,x"):
        with pytest.raises(click.BadParameter):
            converted(option, text)


def test_ports():
    assert converted(words.Ports(), "22") == (22, 22)
    assert converted(words.Ports(), "80:90") == (80, 90)
    for text in ("", "a", "1:", "1-2", "-1", "1:2:3", "1234567"):
        with pytest.raises(click.BadParameter):
            converted(words.Ports(), text)


@click.command()
@click.argument("file", type=words.LocalFile())
def reads(file):
    click.echo(words.read_all(file, 5, "user data"), nl=False)


def test_local_file(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00\xffab")
    assert CliRunner().invoke(reads, [str(tmp_path / "a")]).stdout_bytes == b"\x00\xffab"
    assert CliRunner().invoke(reads, ["-"], input=b"std").stdout_bytes == b"std"


def test_local_file_that_cannot_be_read(tmp_path):
    result = CliRunner().invoke(reads, [str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert "directory" in CliRunner().invoke(reads, [str(tmp_path)]).stderr


def test_a_file_that_is_too_large_is_refused():
    with pytest.raises(click.UsageError, match="user data is larger than 5 bytes"):
        words.read_all(io.BytesIO(b"123456"), 5, "user data")
