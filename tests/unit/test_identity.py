"""Who asks, and how much his project may have."""

import dataclasses

import pytest

from stackctl.errors import NotFound, QuotaExceeded
from stackctl.identity import quota
from stackctl.identity.context import find_own
from stackctl.network.networks import NewNetwork, create_network
from stackctl.state import new_id, now, read, write


@pytest.fixture
def tenant(pair):
    """Somebody in a project that nobody configured."""
    with write(pair.cloud) as writer:
        project = {"id": new_id(), "name": "lab", "created_at": now()}
        writer.insert("projects", project)
        writer.run("UPDATE networks SET shared = 1")
        writer.run("UPDATE images SET visibility = 'public'")
    return dataclasses.replace(pair.context, project_id=project["id"], project_name="lab")


def limit(world, context, resource, maximum):
    with write(world.cloud) as writer:
        row = {"project_id": context.project_id, "resource": resource, "maximum": maximum}
        writer.upsert("quotas", row, pk=("project_id", "resource"))


def test_the_operator_is_admin_without_limits(pair):
    assert (pair.context.project_name, pair.context.user_name) == ("admin", "admin")
    with read(pair.cloud) as reader:
        for resource in quota.DEFAULTS:
            assert quota.maximum(reader, pair.context.project_id, resource) == quota.UNLIMITED


def test_projects_have_novas_defaults(pair, tenant):
    with read(pair.cloud) as reader:
        assert quota.maximum(reader, tenant.project_id, "instances") == 10


def test_ten_instances_and_not_one_more(pair, tenant):
    pair.context = tenant
    pair.booted(count=10)
    with pytest.raises(QuotaExceeded, match="Requested 1, but already used 10 of 10 instances"):
        pair.boot("one")
    assert len(pair.servers()) == 10


@pytest.mark.parametrize(
    ("resource", "maximum", "words"),
    [
        ("cores", 3, "cores: Requested 4, but already used 0 of 3"),
        ("ram_mb", 2047, "ram_mb: Requested 2048"),
        ("instances", 0, "instances: Requested 4"),
        ("ports", 3, "ports: Requested 4, but already used 0 of 3 ports"),
    ],
)
def test_what_is_over_the_quota_leaves_nothing(pair, tenant, resource, maximum, words):
    limit(pair, tenant, resource, maximum)
    pair.context = tenant
    with pytest.raises(QuotaExceeded, match=words) as caught:
        pair.boot(count=4)
    assert caught.value.exit_status == 5
    assert pair.servers() == {}
    assert pair.value("SELECT count(*) FROM ports WHERE device_owner <> 'network:dhcp'") == 0
    assert pair.fleet.opened == {}


def test_the_check_is_inside_the_transaction(pair, tenant):
    limit(pair, tenant, "networks", 1)
    create_network(tenant, NewNetwork("one"))
    with pytest.raises(QuotaExceeded):
        create_network(tenant, NewNetwork("two"))
    with read(pair.cloud) as reader:
        assert quota.used(reader, tenant.project_id, "networks") == 1


def test_what_is_deleted_counts_no_more(pair, tenant):
    limit(pair, tenant, "networks", 1)
    made = create_network(tenant, NewNetwork("one")).value
    with write(pair.cloud) as writer:
        writer.update("networks", made.id, deleted_at=now())
    create_network(tenant, NewNetwork("two"))


def test_a_project_finds_only_its_own(pair, tenant):
    pair.booted("vm")
    with read(pair.cloud) as reader:
        assert find_own(pair.context, reader, "servers", "vm", noun="server")["name"] == "vm"
        with pytest.raises(NotFound):
            find_own(tenant, reader, "servers", "vm", noun="server")
