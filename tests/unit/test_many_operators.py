"""Eight people boot at once: nothing is given twice, nobody gets what is not there."""

import ipaddress
import multiprocessing

from stackctl.compute import service
from stackctl.errors import NoCapacity
from tests.builders import furnished

FORK = multiprocessing.get_context("fork")
OPERATORS = 8
EACH = 4


def boot(world, number, queue):
    try:
        done = service.boot(world.context, world.request(f"op{number}", count=EACH))
        queue.put((number, [failure.message for failure in done.failures]))
    except NoCapacity:
        queue.put((number, None))


def all_at_once(world):
    queue = FORK.SimpleQueue()
    people = [FORK.Process(target=boot, args=(world, n, queue)) for n in range(OPERATORS)]
    for person in people:
        person.start()
    said = dict(queue.get() for _ in people)
    for person in people:
        person.join()
        assert person.exitcode == 0
        person.close()
    queue.close()
    return said


def test_addresses_and_macs_are_unique(world):
    furnished(world, "h1", "h2", "h3")
    said = all_at_once(world)
    assert said == {number: [] for number in range(OPERATORS)}
    count = OPERATORS * EACH
    assert list(world.servers().values()) == ["ACTIVE"] * count
    assert len(world.fleet.domains()) == count
    sql = "SELECT address FROM addresses WHERE released_serial IS NULL AND kind <> 'gateway'"
    given = sorted(ipaddress.ip_address(text) for text in world.column(sql))
    first = ipaddress.ip_address("192.168.1.2")
    assert given == [first + number for number in range(count + 1)]
    macs = world.column("SELECT mac FROM ports WHERE deleted_at IS NULL")
    assert len(set(macs)) == len(macs) == count + 1
    assert world.value("SELECT count(*) FROM operations WHERE outcome <> 'done'") == 0


def test_capacity_is_never_exceeded(world):
    for name in ("h1", "h2"):
        world.add_host(name, ram_mb=512 * 9, reserved_ram_mb=512)
    world.add_image()
    world.add_network()
    said = all_at_once(world)
    assert sorted(value is None for value in said.values()) == [False] * 4 + [True] * 4
    sql = "SELECT sum(ram_mb) AS mb FROM servers WHERE deleted_at IS NULL GROUP BY host_id"
    assert world.column(sql) == [4096, 4096]
    assert len(world.fleet.domains()) == 16
