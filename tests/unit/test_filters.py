"""Every filter: what it lets through, what it refuses, and with what words."""

import dataclasses
import json

import pytest

from stackctl.compute.scheduling import filters as kinds
from stackctl.compute.scheduling.filters import ALWAYS, OPTIONAL
from stackctl.compute.scheduling.policy import DEFAULT_POLICY, policy_of
from stackctl.compute.scheduling.query import OPERATORS as QUERY_OPERATORS
from stackctl.compute.scheduling.query import parse_query
from stackctl.compute.scheduling.scheduler import (
    Aggregate,
    Candidate,
    Group,
    Request,
    ServerAt,
    decide,
    examine,
)
from stackctl.compute.scheduling.specs import OPERATORS as SPEC_OPERATORS
from stackctl.compute.scheduling.specs import matches
from stackctl.errors import UsageError

SMALL = Request("vm", 1, 2048, 20)
FACTS = json.dumps({"virt_type": "kvm", "versions": {"qemu": "9.0"}, "vcpus": 4})


def host(name="h", **more):
    values = {"id": f"id-{name}", "name": name, "enabled": True, "disabled_reason": ""}
    values |= {"zone": "nova", "fenced": False, "recently_unreachable": False}
    values |= {"vcpus_total": 8, "ram_mb_total": 8192, "disk_gb_total": 100}
    values |= {"address": "10.0.1.7", "facts_json": FACTS}
    return Candidate(**{**values, **more})


def asking(**more):
    return dataclasses.replace(SMALL, **more)


def says(item, request, candidate=None):
    """What a filter says of a host; None when the request does not concern it."""
    if not item.concerns(request):
        return None
    return item.refusal(candidate or host(), request)


def specs(**more):
    return asking(extra_specs=more)


def spec(key, value):
    return asking(extra_specs={key: value})


def image(**more):
    return asking(image_properties=more)


def test_they_have_novas_names():
    assert set(OPTIONAL) == {
        "ComputeCapabilitiesFilter",
        "ImagePropertiesFilter",
        "ServerGroupAntiAffinityFilter",
        "ServerGroupAffinityFilter",
        "DifferentHostFilter",
        "SameHostFilter",
        "SimpleCIDRAffinityFilter",
        "JsonFilter",
        "AggregateInstanceExtraSpecsFilter",
        "AggregateMultiTenancyIsolation",
        "IoOpsFilter",
        "NumInstancesFilter",
        "IsolatedHostsFilter",
    }
    assert all(kind().name == name for name, kind in OPTIONAL.items())


@pytest.mark.parametrize("item", [*ALWAYS, *(kind() for kind in OPTIONAL.values())])
def test_a_plain_request_passes_a_plain_host(item):
    assert says(item, SMALL) in (None, "")
    assert item.note(host(), SMALL) or not item.concerns(SMALL)


class TestZone:
    def test_no_zone_asked(self):
        assert says(kinds.AvailabilityZoneFilter(), SMALL) is None

    def test_its_own(self):
        assert says(kinds.AvailabilityZoneFilter(), asking(zone="nova")) == ""

    def test_another(self):
        words = says(kinds.AvailabilityZoneFilter(), asking(zone="east"))
        assert words == "is in zone nova, not east"


class TestComputeCapabilities:
    item = kinds.ComputeCapabilitiesFilter()

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("virt_type", "kvm"),
            ("capabilities:virt_type", "kvm"),
            ("capabilities:virt_type", "s== kvm"),
            ("capabilities:versions:qemu", ">= 8"),
            ("capabilities:cpu_info:arch", "<or> arm64 <or> x86_64"),
            ("vcpus_total", "= 8"),
            ("free_ram_mb", ">= 8192"),
        ],
    )
    def test_what_the_host_has(self, key, value):
        assert says(self.item, spec(key, value)) == ""

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("virt_type", "qemu", "extra spec virt_type=qemu: the host has kvm"),
            (
                "capabilities:gpu",
                "yes",
                "extra spec capabilities:gpu=yes: the host does not have it",
            ),
            ("capabilities:virt_type:x", "y", "the host does not have it"),
            ("vcpus_total", "> 8", "the host has 8"),
            ("capabilities:versions:qemu", ">= 10", "the host has 9.0"),
            ("capabilities:versions:qemu", ">= ten", "the host has 9.0"),
        ],
    )
    def test_what_it_has_not(self, key, value, words):
        assert words in says(self.item, spec(key, value))

    @pytest.mark.parametrize(
        "key", ["hw:cpu_policy", "quota:x", "aggregate_instance_extra_specs:a"]
    )
    def test_other_scopes_are_not_its_own(self, key):
        assert says(self.item, spec(key, "anything")) is None

    def test_what_was_set_for_the_host_beats_what_it_found(self):
        told = says(self.item, spec("virt_type", "kvm"), host(virt_type="qemu"))
        assert told == "extra spec virt_type=kvm: the host has qemu"

    def test_what_it_saw(self):
        assert self.item.note(host(), spec("virt_type", "kvm")) == "virt_type is kvm"


class TestOperators:
    @pytest.mark.parametrize(
        ("value", "wanted", "holds"),
        [
            ("a", "a", True),
            ("a", "b", False),
            ("a b", "a b", True),
            (True, "true", True),
            (4, "4", True),
            (4.0, "4", True),
            (4, "= 4", True),
            (5, "= 4", True),
            (3, "= 4", False),
            (4, "== 4", True),
            (5, "== 4", False),
            (5, "!= 4", True),
            (4, "!= 4", False),
            (4, ">= 4", True),
            (3, ">= 4", False),
            (4, "<= 4", True),
            (5, "<= 4", False),
            ("x", ">= 4", False),
            (None, ">= 4", False),
            ("b", "s== b", True),
            ("b", "s== a", False),
            ("b", "s!= a", True),
            ("b", "s!= b", False),
            ("b", "s>= b", True),
            ("a", "s>= b", False),
            ("c", "s> b", True),
            ("b", "s> b", False),
            ("a", "s< b", True),
            ("b", "s< b", False),
            ("b", "s<= b", True),
            ("c", "s<= b", False),
            ("avx sse", "<in> avx", True),
            ("sse", "<in> avx", False),
            (["avx", "sse"], "<in> avx", True),
            (["avx512"], "<in> avx", False),
            (["avx", "sse"], "<all-in> avx sse", True),
            (["avx"], "<all-in> avx sse", False),
            ("b", "<or> a <or> b", True),
            ("c", "<or> a <or> b", False),
            ("", "<in>", False),
        ],
    )
    def test_they_compare(self, value, wanted, holds):
        assert matches(value, wanted) is holds

    def test_all_of_them_are_tested_here(self):
        marks = TestOperators.test_they_compare.pytestmark
        used = {case[1].split()[0] for case in marks[0].args[1] if case[1]}
        assert set(SPEC_OPERATORS) <= used


class TestAggregateSpecs:
    item = kinds.AggregateInstanceExtraSpecsFilter()
    fast = host(aggregates=(Aggregate("fast", {"ssd": "true, nvme"}), Aggregate("b", {"x": "1"})))

    @pytest.mark.parametrize("key", ["ssd", "aggregate_instance_extra_specs:ssd"])
    @pytest.mark.parametrize("value", ["true", "nvme", "<or> a <or> nvme"])
    def test_any_value_of_any_aggregate(self, key, value):
        assert says(self.item, spec(key, value), self.fast) == ""

    @pytest.mark.parametrize(
        ("candidate", "words"),
        [
            (fast, "extra spec ssd=no: the host is in aggregate fast, b, they have nvme, true"),
            (host(), "extra spec ssd=no: the host is in no aggregate, none of them has it"),
        ],
    )
    def test_none(self, candidate, words):
        assert says(self.item, spec("ssd", "no"), candidate) == words

    def test_other_scopes_are_not_its_own(self):
        assert says(self.item, spec("capabilities:ssd", "true")) is None


class TestImageProperties:
    item = kinds.ImagePropertiesFilter()

    @pytest.mark.parametrize(
        "properties",
        [
            {"hw_architecture": "x86_64"},
            {"architecture": "amd64"},
            {"img_hv_type": "kvm"},
            {"hypervisor_type": "QEMU"},
            {"hw_vm_mode": "hvm"},
        ],
    )
    def test_what_the_host_can(self, properties):
        assert says(self.item, image(**properties)) == ""

    @pytest.mark.parametrize(
        ("properties", "words"),
        [
            ({"hw_architecture": "aarch64"}, "hw_architecture is aarch64, the host has x86_64"),
            ({"img_hv_type": "xen"}, "img_hv_type is xen, the host has kvm, qemu"),
            ({"hw_vm_mode": "xen"}, "hw_vm_mode is xen, the host has hvm"),
        ],
    )
    def test_what_it_cannot(self, properties, words):
        assert words in says(self.item, image(**properties))

    def test_kvm_on_a_host_without_it(self):
        words = says(self.item, image(img_hv_type="kvm"), host(facts_json='{"virt_type": "qemu"}'))
        assert words == "image property img_hv_type is kvm, the host has qemu"

    def test_other_properties_do_not_concern_it(self):
        assert says(self.item, image(os_distro="debian")) is None


def in_group(policy, most=1, **members):
    named = {f"id-{name}": count for name, count in members.items()}
    return asking(group=Group("g", "web", policy, most, named))


class TestGroups:
    affinity, apart = kinds.ServerGroupAffinityFilter(), kinds.ServerGroupAntiAffinityFilter()

    @pytest.mark.parametrize("members", [{}, {"h": 2}, {"h": 1, "other": 1}])
    def test_affinity_where_it_is_or_nowhere_yet(self, members):
        assert says(self.affinity, in_group("affinity", **members)) == ""

    def test_affinity_elsewhere(self):
        words = says(self.affinity, in_group("affinity", other=1))
        assert words == "does not carry server group web, which is elsewhere (affinity)"

    @pytest.mark.parametrize(("most", "members"), [(1, {}), (1, {"other": 9}), (3, {"h": 2})])
    def test_anti_affinity_below_its_share(self, most, members):
        assert says(self.apart, in_group("anti-affinity", most, **members)) == ""

    @pytest.mark.parametrize(("most", "here"), [(1, 1), (3, 3), (2, 5)])
    def test_anti_affinity_with_its_share(self, most, here):
        words = says(self.apart, in_group("anti-affinity", most, h=here))
        assert words == f"carries {here} of server group web, at most {most} may be"

    @pytest.mark.parametrize("policy", ["soft-affinity", "soft-anti-affinity"])
    def test_soft_ones_refuse_nothing(self, policy):
        request = in_group(policy, h=5, other=5)
        assert says(self.affinity, request) is None
        assert says(self.apart, request) is None

    def test_what_they_saw(self):
        assert self.apart.note(host(), in_group("anti-affinity", 3, h=2)) == (
            "carries 2 of server group web, at most 3"
        )


class TestHints:
    here, there = ServerAt("db", "id-h"), ServerAt("web", "id-other")

    def test_a_different_host(self):
        item = kinds.DifferentHostFilter()
        assert says(item, asking(different_host=(self.there,))) == ""
        words = says(item, asking(different_host=(self.there, self.here)))
        assert words == "carries db (hint different_host)"

    def test_the_same_host(self):
        item = kinds.SameHostFilter()
        assert says(item, asking(same_host=(self.there, self.here))) == ""
        words = says(item, asking(same_host=(self.there, ServerAt("lost", None))))
        assert words == "does not carry web, lost (hint same_host)"

    def test_near_an_address(self):
        item = kinds.SimpleCIDRAffinityFilter()
        assert says(item, asking(near="10.0.1.0/24")) == ""
        far = says(item, asking(near="10.0.2.0/24"))
        assert far == "has address 10.0.1.7, which is not in 10.0.2.0/24"
        named = says(item, asking(near="10.0.1.0/24"), host(address="node1"))
        assert "is reached by the name node1" in named
        assert says(item, asking(near="fd00::/64")) != ""

    @pytest.mark.parametrize(
        ("query", "holds"),
        [
            ('["=", "$host", "h"]', True),
            ('["=", "$host", "h", "h2"]', False),
            ('[">", "$free_ram_mb", 4096]', True),
            ('["<", "$free_ram_mb", 4096]', False),
            ('[">=", "$vcpus_total", 8]', True),
            ('["<=", "$vcpus_total", 7]', False),
            ('["in", "$zone", "a", "nova"]', True),
            ('["in", "$zone", "a", "b"]', False),
            ('["not", ["=", "$zone", "nova"]]', False),
            ('["and", ["=", "$zone", "nova"], [">", "$free_disk_mb", 0]]', True),
            ('["or", ["=", "$zone", "x"], ["=", "$num_instances", 1]]', False),
            ('["=", "$versions.qemu", "9.0"]', True),
            ('["=", "$versions.none", "9.0"]', False),
            ('[">", "$ovs_datapath", 3]', False),
            ('[">", "$host", 3]', False),
        ],
    )
    def test_a_query(self, query, holds):
        words = says(kinds.JsonFilter(), asking(query=parse_query(query)))
        assert words == ("" if holds else "does not satisfy the query")

    def test_every_operator_is_tested_here(self):
        marks = TestHints.test_a_query.pytestmark
        used = {json.loads(case[0])[0] for case in marks[0].args[1]}
        assert used == set(QUERY_OPERATORS)

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("no json", "is not JSON"),
            ("3", "is a JSON list"),
            ('{"a": 1}', "is a JSON list"),
            ("[]", "does not begin with one of"),
            ('["="]', "does not begin with one of"),
            ('["like", 1, 2]', "does not begin with one of"),
            ('["not", ["and"]]', "does not begin with one of"),
            ('["=", "$secret", 1]', r"asks about \$secret; what can be asked: "),
            ("[" * 3000, "is not JSON"),
            ('["not", ' * 20 + "1" + "]" * 20, "nested more than 16 deep"),
            ('["=", "' + "x" * 5000 + '"]', "more than 4096 characters"),
        ],
    )
    def test_a_query_that_is_none(self, query, words):
        with pytest.raises(UsageError, match=words):
            parse_query(query)


class TestLimits:
    @pytest.mark.parametrize(
        ("builds", "words"), [(7, ""), (8, "builds 8 servers, at most 8 at once")]
    )
    def test_io_ops(self, builds, words):
        assert says(kinds.IoOpsFilter(), SMALL, host(builds=builds)) == words

    @pytest.mark.parametrize(("servers", "words"), [(49, ""), (50, "has 50 servers, at most 50")])
    def test_num_instances(self, servers, words):
        assert says(kinds.NumInstancesFilter(), SMALL, host(servers=servers)) == words

    def test_they_can_be_set(self):
        names = ["IoOpsFilter", "NumInstancesFilter"]
        limits = {"max_io_ops_per_host": 1, "max_instances_per_host": 2}
        policy = policy_of({"enabled_filters": names, **limits})
        assert decide(SMALL, [host(builds=1)], policy).verdicts[0].refused_by == "IoOpsFilter"
        assert (
            decide(SMALL, [host(servers=2)], policy).verdicts[0].refused_by == "NumInstancesFilter"
        )
        assert decide(SMALL, [host(servers=1)], policy).host == "h"


class TestIsolation:
    item = kinds.IsolatedHostsFilter(frozenset({"h"}), frozenset({"secret"}))

    def test_image_and_host_belong_together(self):
        assert says(self.item, asking(image_id="secret")) == ""
        assert says(self.item, asking(image_id="other"), host("open")) == ""

    def test_an_image_set_apart_goes_nowhere_else(self):
        words = says(self.item, asking(image_id="secret"), host("open"))
        assert words == "is not one of the hosts set apart for this image (isolated_hosts)"

    def test_a_host_set_apart_takes_nothing_else(self):
        words = says(self.item, asking(image_id="other"))
        assert words == "is set apart for other images (isolated_hosts)"
        lenient = dataclasses.replace(self.item, restrict_isolated_hosts_to_isolated_images=False)
        assert says(lenient, asking(image_id="other")) == ""

    def test_projects(self):
        item = kinds.AggregateMultiTenancyIsolation()
        kept = host(
            aggregates=(
                Aggregate("ours", {"filter_tenant_id": "p1, p2"}),
                Aggregate("more", {"filter_tenant_id3": "p3"}),
                Aggregate("any", {"ssd": "true"}),
            )
        )
        for project in ("p1", "p2", "p3"):
            assert says(item, asking(project_id=project), kept) == ""
        words = says(item, asking(project_id="p4"), kept)
        assert words == "is kept for other projects by aggregate ours, more"
        assert says(item, asking(project_id="p4")) == ""


class TestPolicy:
    def test_novas_defaults_and_the_hints(self):
        names = [item.name for item in DEFAULT_POLICY.filters]
        assert names[: len(ALWAYS)] == [item.name for item in ALWAYS]
        assert "IoOpsFilter" not in names
        assert "ServerGroupAntiAffinityFilter" in names
        assert DEFAULT_POLICY.max_attempts == 3
        assert {item.setting: item.multiplier for item in DEFAULT_POLICY.weighers} == {
            "ram_weight_multiplier": 1,
            "cpu_weight_multiplier": 1,
            "disk_weight_multiplier": 1,
            "io_ops_weight_multiplier": -1,
            "num_instances_weight_multiplier": 0,
            "soft_affinity_weight_multiplier": 1,
            "soft_anti_affinity_weight_multiplier": 1,
            "build_failure_weight_multiplier": 1000000,
            "unreachable_weight_multiplier": 10,
        }

    def test_an_empty_one_is_the_default(self):
        assert policy_of(None) == policy_of({}) == DEFAULT_POLICY

    def test_what_is_always_there_may_be_named(self):
        policy = policy_of({"enabled_filters": ["ComputeFilter", "JsonFilter", "JsonFilter"]})
        assert [item.name for item in policy.filters][len(ALWAYS) :] == ["JsonFilter"]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"ram_multiplier": 1}, "there is no setting ram_multiplier; there are "),
            ({"enabled_filters": ["RamWeigher"]}, "there is no filter RamWeigher; there are "),
            ({"enabled_filters": "JsonFilter"}, "is not a list"),
            ({"max_attempts": 0}, "max_attempts 0 is not a number of 1 or more"),
            ({"ram_weight_multiplier": "much"}, "ram_weight_multiplier 'much' is not a number"),
            (
                {"enabled_filters": ["IoOpsFilter"], "max_io_ops_per_host": "8"},
                "max_io_ops_per_host '8' is not a whole number",
            ),
            (
                {"enabled_filters": ["IsolatedHostsFilter"], "isolated_hosts": "h1"},
                "isolated_hosts 'h1' is not a list",
            ),
            (["JsonFilter"], "settings are NAME: VALUE pairs"),
        ],
    )
    def test_what_is_wrong_is_named(self, settings, words):
        with pytest.raises(UsageError, match=words):
            policy_of(settings)


def test_an_examination_has_every_filter_with_its_numbers():
    decision = decide(asking(zone="nova"), [host("a"), host("b", ram_mb_used=7000)])
    said = {
        item.filter: (item.passes, item.words) for item in examine(decision, "id-b", DEFAULT_POLICY)
    }
    assert said == {
        "ComputeFilter": (True, "enabled"),
        "AvailabilityZoneFilter": (True, "zone nova"),
        "CoreFilter": (True, "needs 1, 8 free"),
        "RamFilter": (False, "RAM: needs 2048 MB, 1192 MB free"),
        "DiskFilter": (True, "needs 20 GB, 100 GB free"),
    }
