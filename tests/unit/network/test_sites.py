"""Sites in topology files: who is where, how a mistake is told, and that what is written is read again."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qkdrelay.errors import TopologyError
from qkdrelay.network.names import COORDINATOR
from qkdrelay.network.sites import AMQPS_PORT, Site, broker_parts
from qkdrelay.network.topology import Topology, one_site_each
from qkdrelay.network.topology_file import format_topology, parse_topology, reference_topology

SITES = """\
name = "sites"
kmes = ["kme-1", "kme-2", "kme-3"]
links = [["kme-1", "kme-2"], ["kme-2", "kme-3"]]
coordinator = "berlin"

[trust]
kme-2 = "avoid"

[sites]
berlin = { kmes = ["kme-1", "kme-3"], broker = "qkd.berlin.example" }
paris = { kmes = ["kme-2"], broker = "[2001:DB8:0::7]:5672" }

[saes]
sites = "kme-1"
paris = "kme-2"
coordinator = "kme-2"
"""
BERLIN = 'berlin = { kmes = ["kme-1", "kme-3"], broker = "qkd.berlin.example" }'
PARIS = 'paris = { kmes = ["kme-2"], broker = "[2001:DB8:0::7]:5672" }'
LED = 'coordinator = "berlin"\n'
EXAMPLE = 'berlin = { kmes = ["kme-1"], broker = "qkd.berlin.example:5671" }'


def test_a_file_says_who_is_where_and_where_others_reach_it():
    network = parse_topology(SITES, "sites.toml")
    assert network.sites == {
        "berlin": Site(("kme-1", "kme-3"), "qkd.berlin.example", AMQPS_PORT),
        "paris": Site(("kme-2",), "2001:db8::7", 5672),
    }
    assert [site.broker for site in network.sites.values()] == ["qkd.berlin.example:5671", "[2001:db8::7]:5672"]
    assert network.coordinator == "berlin"
    assert network.site_of == {"kme-1": "berlin", "kme-3": "berlin", "kme-2": "paris"}
    assert network.elsewhere("berlin") == {"kme-2": "paris"}
    assert network.elsewhere("paris") == {"kme-1": "berlin", "kme-3": "berlin", COORDINATOR: "berlin"}
    assert isinstance(hash(network), int)


def test_a_file_without_sites_means_what_it_did():
    network = reference_topology()
    assert (network.sites, network.coordinator, network.site_of, network.elsewhere("")) == ({}, "", {}, {})
    assert not re.search("sites|coordinator", format_topology(network))


def test_where_each_kme_is_a_site_all_but_the_first_are_elsewhere():
    network = one_site_each(reference_topology())
    assert network.site_of == {kme: kme for kme in network.kmes}
    assert network.elsewhere("kme-1") == {kme: kme for kme in network.kmes[1:]}
    assert network.elsewhere("kme-2")[COORDINATOR] == "kme-1"
    assert parse_topology(format_topology(network), "here") == network


MISTAKES = [
    ("berlin =", "Berlin =", "sites.toml:10: 'Berlin' cannot be the name of a site", "1 to 32 of a-z"),
    ("paris = {", '"" = {', "sites.toml:11: '' cannot be the name of a site", "1 to 32 of a-z"),
    ("paris = {", '"par.is" = {', "sites.toml:11: 'par.is' cannot be the name of a site", "1 to 32 of a-z"),
    (PARIS, "paris = 3", "sites.toml:11: site 'paris' must be a table", EXAMPLE),
    (PARIS, 'paris = [{ kmes = ["kme-2"] }]', "sites.toml:11: site 'paris' must be a table", EXAMPLE),
    (PARIS, 'coordinator = "paris"', "sites.toml:11: site 'coordinator' must be a table", "above all tables"),
    ('["kme-2"],', '["kme-2"], host = 1,', "sites.toml:11: site 'paris' has an unknown entry 'host'", "kmes, broker"),
    ('["kme-2"], broker', '["kme-2"], brokr', "sites.toml:11: site 'paris' has an unknown entry 'brokr'", "'broker'?"),
    ('kmes = ["kme-2"], ', "", "sites.toml:11: 'kmes' of site 'paris' must be a list of KMEs", EXAMPLE),
    ('kmes = ["kme-2"]', 'kmes = "kme-2"', "sites.toml:11: 'kmes' of site 'paris' must be a list of KMEs", EXAMPLE),
    ('["kme-2"], b', '["kme-2", 2], b', "sites.toml:11: 'kmes' of site 'paris' must be a list of KMEs", EXAMPLE),
    ('["kme-2"], b', '[["kme-2"]], b', "sites.toml:11: 'kmes' of site 'paris' must be a list of KMEs", EXAMPLE),
    ('["kme-2"], b', "[{ kme-2 = 1 }], b", "sites.toml:11: 'kmes' of site 'paris' must be a list of KMEs", EXAMPLE),
    ('["kme-2"], b', '["kme-22"], b', "sites.toml:11: site 'paris' has KME 'kme-22', which is not in", "'kme-2'?"),
    ('["kme-2"], b', '["kme-2", "kme-2"], b', "sites.toml:11: site 'paris' has KME 'kme-2' twice", "name it once"),
    (
        '["kme-2"], b',
        '["kme-2", "kme-1"], b',
        "sites.toml:11: KME 'kme-1' is at two sites, 'berlin' and 'paris'",
        "name it at one",
    ),
    (', "kme-3"], broker', "], broker", "sites.toml:9: KME 'kme-3' is at no site", "add it to one"),
    (', broker = "qkd.berlin.example"', "", "sites.toml:10: 'broker' of site 'berlin' must say where", EXAMPLE),
    ('"qkd.berlin.example"', "5671", "sites.toml:10: 'broker' of site 'berlin' must say where", EXAMPLE),
    ('"qkd.berlin.example"', '["a:1"]', "sites.toml:10: 'broker' of site 'berlin' must say where", EXAMPLE),
    ('"qkd.berlin.example"', '"https://a"', "sites.toml:10: 'broker' of site 'berlin' must say where", EXAMPLE),
    (
        "qkd.berlin.example",
        "[2001:db8::0007]:5672",
        "sites.toml:11: sites 'berlin' and 'paris' have one broker, [2001:db8::7]:5672",
        "each its own",
    ),
    (LED, "", "sites.toml:8: 'coordinator' must name the site that the coordinator is at", 'coordinator = "berlin"'),
    (LED, 'coordinator = "pari"\n', "sites.toml:4: 'coordinator' is 'pari', no site", "did you mean 'paris'?"),
    (LED, 'coordinator = "kme-1"\n', "sites.toml:4: 'coordinator' is 'kme-1', no site", "known: berlin, paris"),
    (LED, "coordinator = 1\n", "sites.toml:4: 'coordinator' is 1, no site", 'coordinator = "berlin"'),
    (LED, 'coordinator = ["berlin"]\n', "sites.toml:4: 'coordinator' is ['berlin'], no site", 'coordinator = "berlin"'),
    (LED, "coordinator = { a = 1 }\n", "sites.toml:4: 'coordinator' is {'a': 1}, no site", 'coordinator = "berlin"'),
    (PARIS, f'{PARIS}\nrome = {{ kmes = [], broker = "a" }}', "sites.toml:12: site 'rome' has no KME, and not", "out"),
    (f"[sites]\n{BERLIN}\n{PARIS}\n", "", "sites.toml:4: 'coordinator' names a site, and there is no", "leave it out"),
    (f"[sites]\n{BERLIN}\n{PARIS}\n", "[sites]\n", "sites.toml:9: 'sites' must be a table of sites", "[sites], below"),
    (
        f"[sites]\n{BERLIN}\n{PARIS}\n",
        '[[sites]]\nkmes = ["a"]\n',
        "sites.toml:9: 'sites' must be a table of sites",
        "[sites], below",
    ),
    (f"{LED}\n[trust]", f"{LED}sites = 3\n[trust]", "sites.toml: not valid TOML", None),
    ("[sites]", "[site]", "sites.toml:9: unknown entry 'site'", "did you mean 'sites'?"),
    (LED, 'coordinater = "berlin"\n', "sites.toml:4: unknown entry 'coordinater'", "did you mean 'coordinator'?"),
]


@pytest.mark.parametrize(("old", "new", "error", "hint"), MISTAKES)
def test_a_mistake_is_told_with_line_and_name(old, new, error, hint):
    assert SITES.count(old) == 1
    with pytest.raises(TopologyError) as caught:
        parse_topology(SITES.replace(old, new), "sites.toml")
    assert str(caught.value).startswith(error)
    assert hint is None or hint in caught.value.hint


BEGINNING = 'name = "n"\nkmes = ["a", "b"]\nlinks = [["a", "b"]]\n'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            'coordinator = "x"\n[sites.x]\nkmes = ["a"]\nbroker = "x"\n[sites.y]\nkmes = [\n"c"]\nbroker = "y"',
            "n:9: site",
        ),
        (
            'coordinator = "x"\n[sites.x]\nkmes = ["a"]\nbroker = "x"\n[sites.y]\nkmes = ["b"]\nbroker = "X"',
            "n:10: sites",
        ),
        (
            'coordinator = "x"\n[sites."x"]\nkmes = ["a"]\nbroker = "x"\n[sites.y]\nkmes = ["b"]',
            "n:8: 'broker' of site",
        ),
        ('coordinator = "x"\n[sites.x]\nkmes = ["a"]\nbroker = "x"\n', "n:5: KME 'b' is at no site"),
        ('[sites.x]\nkmes = ["a"]\nbroker = "x"\nyz=1\n', "n:7: site 'x' has an unknown entry 'yz'"),
        ('sites.x.kmes = ["a"]\nsites.x.broker = "x"\nsites.y.kmes = ["c"]', "n:6: site 'y' has KME 'c'"),
        ('sites.x.kmes = ["a"]\nsites.\'x\'.broker = ":"', "n:5: 'broker' of site 'x'"),
        ('sites = { x = { kmes = ["a"], broker = "" } }', "n:4: 'broker' of site 'x'"),
        ('[sites.y]\nbroker = [\n["sites.z"]\n]\nkmes = 3', "n:8: 'kmes' of site 'y'"),
        ('sites = "x"', "n:4: 'sites' must be a table"),
        ('[sites]\nx.kmes = ["a"]\nx.broker = "x"\ny.kmes = ["a"]\ny.broker = "y"', "n:7: KME 'a' is at two sites"),
        ('[sites]\n# kmes = 1\nkmes = { kmes = 3 }\nx = { kmes = ["a"] }', "n:6: 'kmes' of site 'kmes'"),
        ('[sites]\nbroker = { broker = 3, kmes = ["a"] }\nx = { broker = "x" }', "n:5: 'broker' of site 'broker'"),
        ('[sites]\n"x\\ty" = 3\nx = 3', "n:5: 'x\\ty' cannot be the name of a site"),
        ('[saes]\nx = """\n[sites]\nx = 3"""\n[sites]\nx = 3', "n:9: site 'x'"),
        ('coordinator = """\nsites = 1"""\nsites = 3', "n:6: 'sites' must be a table"),
        ('coordinator = 1\n[sites]\ncoordinator = { kmes = ["a", "b"], broker = "a" }', "n:4: 'coordinator' is 1"),
        ('[sites]\nsites = { kmes = ["a"], broker = "a" }', "n:4: KME 'b' is at no site"),
    ],
)
def test_lines_are_counted_in_whatever_way_sites_are_written(text, error):
    with pytest.raises(TopologyError) as caught:
        parse_topology(BEGINNING + text, "n")
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    "broker",
    [
        *(
            "",
            ":",
            ":5671",
            "a:",
            "a:0",
            "a:65536",
            "a:123456",
            "a:x",
            "a:-1",
            "a: 1",
            " a",
            "a ",
            "a\n",
            "a:1\n",
            "a:1:2",
        ),
        *("a,b", "a:1,b:2", "me@a", "amqps://a", "a/b", "a_b", "ä", "*.a", "-a", "a-", "a.-b", "a..b", ".a", "a."),
        *("x" * 64, ".".join(["x" * 63] * 4), "2001:db8::7", "[2001:db8::7", "[::g]", "[]", "[1.2.3.4]", "[::1%eth0]"),
        *("[::1]5671", "[::1]:", "[a]", "10.0.0.300", "1.2.3", "1.2.3.4.5", "010.0.0.1", "a:٣"),
        *(None, 5671, 1.5, True, [], {}, ["a:1"], {"host": "a"}),
    ],
)
def test_what_can_be_no_broker_is_refused(broker):
    assert broker_parts(broker) is None


@pytest.mark.parametrize(
    ("broker", "parts"),
    [
        ("a", ("a", 5671)),
        ("a:1", ("a", 1)),
        ("a:65535", ("a", 65535)),
        ("QKD-1.Berlin.example:05671", ("QKD-1.Berlin.example", 5671)),
        ("192.0.2.1:5672", ("192.0.2.1", 5672)),
        ("1", ("1", 5671)),
        ("7.example", ("7.example", 5671)),
        ("[::1]", ("::1", 5671)),
        ("[2001:0DB8::0:7]:1", ("2001:db8::7", 1)),
        ("x" * 63, ("x" * 63, 5671)),
    ],
)
def test_a_broker_is_taken_apart(broker, parts):
    assert broker_parts(broker) == parts


KMES = ("kme-1", "kme-10", "2", "-", "no", "sites")
NAMES = st.sampled_from(["1", "-", "007", "1e3", "true", "inf", "nan", "kmes", "broker", "sites", "coordinator"])
NAMES |= st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True)
LABELS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9-]{0,8}[A-Za-z0-9])?", fullmatch=True)
HOSTS = st.lists(LABELS, min_size=1, max_size=4).map(".".join).filter(lambda host: re.search("[A-Za-z]", host))
HOSTS |= st.ip_addresses().map(lambda address: address.compressed)
PORTS = st.just(AMQPS_PORT) | st.integers(1, 65535)


@st.composite
def networks_of_sites(draw):
    """Sites of some KMEs each; the coordinator may be at one of none."""
    names = draw(st.lists(NAMES, min_size=1, max_size=len(KMES), unique=True))
    at = {kme: draw(st.sampled_from(names)) for kme in draw(st.permutations(KMES))}
    here = {name: tuple(kme for kme, site in at.items() if site == name) for name in names}
    coordinator = draw(st.sampled_from(names))
    sites = {name: Site(kmes, draw(HOSTS), draw(PORTS)) for name, kmes in here.items() if kmes or name == coordinator}
    apart = {site.broker.lower(): name for name, site in sites.items()}
    for number, name in enumerate(sites):
        if apart[sites[name].broker.lower()] != name:
            sites[name] = Site(sites[name].kmes, f"apart-{number}.example", sites[name].port)
    return Topology("drawn", KMES, ((KMES[0], KMES[1]),), sites=sites, coordinator=coordinator)


@settings(max_examples=200)
@given(networks_of_sites())
@example(
    Topology("n", KMES, (), sites={"1": Site(KMES, "::1", 5671), "-": Site((), "1", 1)}, coordinator="-"),
)
def test_sites_that_are_written_are_read_again(network):
    text = format_topology(network)
    read = parse_topology(text, "here")
    assert read == network
    assert tuple(read.sites) == tuple(network.sites)
    assert format_topology(read) == text


WORDS = st.sampled_from(
    ['"kme-1"', '"kme-2"', '"a:1"', '"[::1]"', "1", "true", "1.5", "nan", "1979-05-27", '""', "'x'"]
)
VALUES = st.recursive(
    WORDS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda each: f"[{', '.join(each)}]")
        | st.lists(
            st.tuples(st.sampled_from(["kmes", "broker", "x", "1"]), inner), max_size=3, unique_by=lambda e: e[0]
        ).map(lambda each: "{ " + ", ".join(f"{name} = {value}" for name, value in each) + " }")
    ),
    max_leaves=6,
)
TABLES = st.builds(
    lambda kmes, broker: f"{{ kmes = [{', '.join(kmes)}], broker = {broker} }}",
    st.lists(st.sampled_from(['"kme-1"', '"kme-2"', '"kme-3"', "[]", "1"]), max_size=3),
    st.sampled_from(['"a"', '"a:1"', '"A:1"', '"b"', '"c:70000"', "1"]),
)
WHERE = re.compile(r"sites\.toml(:[0-9]+)?: ")


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "kmes", '"a.b"', "A", "-", "1"]), TABLES | VALUES), max_size=4),
    st.sampled_from(["", 'coordinator = "a"', 'coordinator = "1"', "coordinator = [1]", "coordinator = { a = 1 }"]),
)
def test_whatever_stands_in_sites_is_a_network_or_a_mistake_that_is_told(entries, led):
    lines = "\n".join(f"{name} = {value}" for name, value in entries)
    text = f'name = "n"\nkmes = ["kme-1", "kme-2"]\nlinks = []\n{led}\n[sites]\n{lines}\n'
    network, told = None, "sites.toml: "
    try:
        network = parse_topology(text, "sites.toml")
    except TopologyError as error:
        told = str(error)
    assert WHERE.match(told)
    if network is not None:
        at = [kme for site in network.sites.values() for kme in site.kmes]
        assert sorted(at) == sorted(network.kmes)
        assert network.coordinator in network.sites
        assert len({site.broker.lower() for site in network.sites.values()}) == len(network.sites)


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_wrong_with_a_file_of_sites_it_is_told(data):
    text = SITES
    for _ in range(data.draw(st.integers(1, 4))):
        place, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 6))
        written = data.draw(st.text(st.sampled_from("[]{}\"'#=,. \n\\:kb-3é"), max_size=6))
        text = text[:place] + written + text[place + length :]
    told = "sites.toml: "
    try:
        parse_topology(text, "sites.toml")
    except TopologyError as error:
        told = str(error)
    assert WHERE.match(told)


def test_many_sites_are_read_without_looking_for_any_ones_line(monkeypatch):
    """What it costs grows with the file, not with its square."""
    monkeypatch.setattr("qkdrelay.network.toml_file.TomlFile.place", None)
    kmes = tuple(f"k{number}" for number in range(200))
    network = one_site_each(Topology("n", kmes, ()))
    assert parse_topology(format_topology(network), "here") == network
