from acme_passes.probes import DropProbes

from accelc.testing import check, unchanged

HEAD = '<ir_version: 8, opset_import: ["": 17, "acme.debug": 1]> main'
PROBE = '<domain: "acme.debug", opset_import: ["": 17]> Probe (value) => (same) { same = Identity(value) }'


def test_probes_go() -> None:
    check(
        DropProbes(),
        f"{HEAD} (float[2] x) => (float[2] y) {{ p = acme.debug.Probe(x)  y = Neg(p) }} {PROBE}",
        "(float[2] x) => (float[2] y) { y = Neg(x) }",
    )


def test_a_probe_that_makes_an_output_stays() -> None:
    unchanged(DropProbes(), f"{HEAD} (float[2] x) => (float[2] y) {{ y = acme.debug.Probe(x) }} {PROBE}")


def test_other_domains_stay() -> None:
    source = f"{HEAD} (float[2] x) => (float[2] y) {{ p = acme.debug.Probe(x)  y = Neg(p) }} {PROBE}"
    unchanged(DropProbes(domain="other"), source)
