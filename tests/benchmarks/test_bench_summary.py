"""The benchmark's arithmetic, its output for people and its chart, on samples made up here: nothing is measured."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import chart
import compare
import jsonschema
import measuring
import pytest
import table
from measuring import Sample
from metrics import METRICS
from summary import summarise
from systems import SYSTEMS

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schemas" / "holloway.bench.json").read_text())
REFERENCES = dict.fromkeys(METRICS, "wireguard-go")
ABOUT = {
    "seconds": 1.0,
    "versions": {"holloway": "0.1.0", "wireguard-go": "1.2"},
    "machine": {"kernel": "6.1", "cpus": 2, "cpu_model": "x", "tcp_congestion_control": "cubic"},
    "absent": {"tinc": "sudo apt-get install tinc"},
}


def taken(system: str, number: int, *errors: str, **metrics: float) -> Sample:
    return Sample(system, number, 0.5, metrics, list(errors))


SAMPLES = [
    taken("raw", 1, tcp1_gbit=10.0),
    taken("holloway-aes-gcm", 1, tcp1_gbit=4.0, cpu_s_per_gb=3.0),
    taken("wireguard-go", 1, tcp1_gbit=1.0, cpu_s_per_gb=30.0),
    taken("holloway-aes-gcm", 2, tcp1_gbit=1.0, cpu_s_per_gb=6.0),
    taken("wireguard-go", 2, tcp1_gbit=0.5, cpu_s_per_gb=60.0),
    taken("raw", 2, tcp1_gbit=12.0),
    taken("wireguard-go", 3, "start: <no>", tcp4_gbit=0.0),
    taken("raw", 3, tcp1_gbit=11.0),
    taken("holloway-aes-gcm", 3, tcp1_gbit=9.0, tcp4_gbit=1.0),
]


def result(samples: list[Sample] = SAMPLES, references: dict[str, str] = REFERENCES) -> dict[str, Any]:
    return summarise(samples, rounds=3, references=references, about=ABOUT)


def test_ratios_are_taken_within_a_round_before_the_median() -> None:
    found = result()
    assert found["ratios"]["holloway-aes-gcm/wireguard-go"]["tcp1_gbit"] == 3.0  # of 4 and 2, not 4.0 / 0.75
    assert found["spreads"]["holloway-aes-gcm/wireguard-go"]["tcp1_gbit"] == {"min": 2.0, "max": 4.0, "rounds": 2}


def test_a_round_that_failed_or_gave_nothing_has_no_ratio_but_its_other_figures_count() -> None:
    found = result()
    assert found["systems"]["holloway-aes-gcm"]["tcp1_gbit"] == 4.0
    assert found["systems"]["wireguard-go"]["tcp1_gbit"] == 0.75
    assert "tcp4_gbit" not in found["ratios"]["holloway-aes-gcm/wireguard-go"]
    assert found["failures"] == {"raw": 0, "holloway-aes-gcm": 0, "wireguard-go": 1}


def test_what_does_not_apply_is_null_and_has_no_ratio() -> None:
    found = result()
    assert found["systems"]["raw"]["cpu_s_per_gb"] is None
    assert "cpu_s_per_gb" not in found["ratios"]["raw/wireguard-go"]


def test_each_metric_has_its_own_reference() -> None:
    found = result(references={**REFERENCES, "tcp1_gbit": "raw"})
    assert found["ratios"]["holloway-aes-gcm/raw"] == {"tcp1_gbit": 0.4}
    assert found["ratios"]["holloway-aes-gcm/wireguard-go"] == {"cpu_s_per_gb": 0.1}


def test_a_reference_that_was_not_measured_gives_no_ratios_and_is_told() -> None:
    found = result(SAMPLES[:2])
    assert found["ratios"] == found["references"] == {}
    assert "No ratios" in table.render(found)


@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES[:1], [taken("tinc", 1, "start: no")]])
def test_every_result_keeps_to_the_schema(samples: list[Sample]) -> None:
    jsonschema.validate(json.loads(json.dumps(result(samples), allow_nan=False)), SCHEMA)


def test_schema_names_every_metric() -> None:
    assert SCHEMA["$defs"]["metric"]["enum"] == list(METRICS)
    assert list(SCHEMA["properties"]["systems"]["additionalProperties"]["properties"]) == list(METRICS)


def test_table_tells_ratios_failures_and_what_is_missing() -> None:
    shown = table.render(result())
    assert re.search(r"holloway-aes-gcm +3\.00 x  \(2\.00 \.\. 4\.00\)", shown)
    assert re.search(r"wireguard-go .* failures in 1 of 3\n", shown)
    assert "round 3, wireguard-go: start: <no>" in shown
    assert "tinc: sudo apt-get install tinc" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0.0, "0.000"), (0.1234, "0.123"), (1.005, "1.00"), (12.34, "12.3"), (123.4, "123")],
)
def test_figures_have_three_digits(value: float | None, shown: str) -> None:
    assert table.number(value) == shown


def test_chart_is_well_formed_self_contained_and_the_same_for_the_same_result() -> None:
    drawn = chart.draw(result())
    assert drawn == chart.draw(json.loads(json.dumps(result())))
    ElementTree.fromstring(drawn)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|<script|<image", drawn)
    assert "prefers-color-scheme:dark" in drawn


def test_chart_bars_are_in_proportion_and_the_bare_wire_has_none() -> None:
    drawn = chart.draw(result())
    widths = [float(found) for found in re.findall(r'<rect class="(?:own|peer)"[^>]* width="([\d.]+)"', drawn)]
    assert widths[0] / widths[1] == pytest.approx(4.0 / 0.75, rel=0.01)  # the first panel is one stream
    assert "bare wire 11.0" in drawn
    assert ">raw<" not in drawn


def test_chart_stays_inside_its_page_with_every_system_in_it() -> None:
    samples = [taken(name, 1, **dict.fromkeys(METRICS, 123.4)) for name in SYSTEMS]
    root = ElementTree.fromstring(chart.draw(result(samples)))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for found in root.iter("{http://www.w3.org/2000/svg}text"):
        long = len(found.text or "") * 6.6  # a wide font at 12 pixels
        left = float(found.attrib["x"]) - (long if found.get("text-anchor") == "end" else 0)
        assert left >= 0, found.text
        assert left + long <= width, found.text
        assert float(found.attrib["y"]) <= height


def test_chart_writes_names_as_text_not_as_markup() -> None:
    drawn = chart.draw(result([taken("<b>&", 1, tcp1_gbit=1.0)]))
    assert "&lt;b&gt;&amp;" in drawn


def test_percentile_is_the_nearest_rank() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert measuring.percentile(values, 99) == 99.0
    assert measuring.percentile(values[50:], 99) == 50.0
    assert measuring.percentile([5.0], 99) == 5.0
    assert math.isinf(measuring.percentile([1.0] * 98 + [math.inf] * 2, 99))


def test_an_earlier_result_is_drawn_and_another_file_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "from.json", tmp_path / "to.svg"
    source.write_text(json.dumps(result()))
    assert compare.chart_of(source, target) == 0
    assert target.read_text() == chart.draw(result())
    target.unlink()
    later = json.dumps({**result(), "schema": "holloway.bench/2"})
    for wrong in (later, "{}", "[1]", "no", '{"schema": "holloway.bench/1"}'):
        source.write_text(wrong)
        assert compare.chart_of(source, target) == 65
    assert not target.exists()
    assert "cannot be drawn" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--only", "nobody"],
        ["--only", ","],
        ["--rounds", "0"],
        ["--seconds", "nan"],
        ["--reference", "speed=raw"],
        ["--only", "raw", "--reference", "nebula"],
        ["--svg", "/nowhere/chart.svg"],
    ],
)
def test_wrong_options_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.parse(argv)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_systems_and_references_are_chosen_by_name() -> None:
    options = compare.parse(["--only", "raw,nebula,raw", "--reference", "nebula", "--reference", "rtt_idle_ms=raw"])
    assert options.only == ["raw", "nebula"]
    assert options.reference == {**dict.fromkeys(METRICS, "nebula"), "rtt_idle_ms": "raw"}
