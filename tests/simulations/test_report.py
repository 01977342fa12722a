"""The report of a run, as a person sees it: driven in headless Chromium, and compared with what the trace says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, Opened, needs_chromium, started
from reported_runs import (
    HOSTILE,
    REPLAY,
    Played,
    S,
    arrows_in,
    crowd_run,
    fault,
    lines_before,
    page_of,
    play,
    quiet_plan,
    standing,
    told,
)

from holloway.simulations.report.excerpt import Extent
from holloway.simulations.run import Failure, Verdict

BROKEN = Failure(Verdict.SAFETY_BROKEN, "no_nonce_used_twice", "a key of b", 2_000_000_000)

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def lossy() -> Played:
    return play("rekey-under-loss", 3)


@pytest.fixture(scope="module")
def split() -> Played:
    return play("partition-and-heal", 3)


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    """Opens the page of a run. At the end of the test no page may have complained or asked for anything but itself."""
    opened: list[tuple[Opened, str]] = []
    contexts = []

    def open_page(run: Played, *, is_dark: bool = False, **words: Any) -> Opened:
        path = tmp_path / f"{len(opened)}.html"
        path.write_text(page_of(run, **words)[0], "ascii")
        context = browser.open(path, is_dark=is_dark)
        contexts.append(context)
        opened.append((context.__enter__(), path.as_uri()))
        return opened[-1][0]

    yield open_page
    for page, address in opened:
        assert page.wrongs == []
        assert page.requests == [address]
    for context in contexts:
        context.__exit__(None, None, None)


def window(page: Opened) -> tuple[float, float]:
    lanes = page.page.locator("#lanes")
    return float(lanes.get_attribute("data-from") or -1), float(lanes.get_attribute("data-to") or -1)


def arrows_shown(page: Opened) -> dict[int, str]:
    shown = page.of_all(
        "#lanes g.arrow", "all => all.map(each => [Number(each.dataset.line), each.getAttribute('class')])"
    )
    fates = {"arrived", "lost", "flying", "uninvited"}
    assert len({line for line, _ in shown}) == len(shown)
    return {line: next(iter(fates & set(look.split()))) for line, look in shown}


def table_shown(page: Opened) -> dict[str, list[str]]:
    rows = page.of_all(
        "#state tbody tr",
        "all => all.map(row => [...row.cells].map(cell => cell.innerText.replace(/\\s+/g, ' ').trim()))",
    )
    return {row[0]: row[1:] for row in rows}


def zoom_to(page: Opened, size_ns: float) -> None:
    """Turn the wheel in the middle of the chart until so much time is seen."""
    box = page.page.locator("#lanes").bounding_box()
    assert box is not None
    page.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    for _ in range(200):
        start, end = window(page)
        if end - start <= size_ns:
            return
        page.page.mouse.wheel(0, -100)
        page.page.wait_for_function("before => Number(document.querySelector('#lanes').dataset.to) !== before", arg=end)
    raise AssertionError("the wheel does not zoom")


def test_the_arrows_of_a_window_are_those_of_the_trace_and_lost_ones_are_dashed(show: Any, lossy: Played) -> None:
    page = show(lossy)
    assert window(page) == (0, 60 * S)
    assert page.page.locator("#lanes rect.crowd").count() > 100
    zoom_to(page, 12 * S)
    expected = arrows_in(lossy.lines, *window(page))
    assert arrows_shown(page) == expected
    assert {"arrived", "lost"} <= set(expected.values())
    dashes = page.of_all(
        "#lanes g.arrow",
        "all => all.map(each => [each.matches('.lost'), getComputedStyle(each.querySelector('.shaft')).strokeDasharray])",
    )
    assert {dash for is_lost, dash in dashes if is_lost} == {"5px, 4px"}
    assert "5px, 4px" not in {dash for is_lost, dash in dashes if not is_lost}
    assert page.page.locator("#lanes g.arrow.lost path.cross").count() == list(expected.values()).count("lost")
    assert page.page.locator("#lanes g.arrow.copy").count() > 0


def test_replayed_datagrams_and_those_of_strangers_are_arrows_from_nowhere(show: Any) -> None:
    run = play("replay-attack", 3)
    page = show(run)
    zoom_to(page, 4 * S)
    expected = arrows_in(run.lines, *window(page))
    assert arrows_shown(page) == expected
    assert list(expected.values()).count("uninvited") == page.page.locator("#lanes g.arrow circle.origin").count() > 0


def test_the_slider_moves_the_time_and_the_table_says_what_the_trace_says(show: Any, split: Played) -> None:
    page = show(split)
    slider = page.page.locator("#slider")
    box = slider.bounding_box()
    places = []
    for part in (0.2, 0.31, 0.62, 0.999):
        page.page.mouse.click(box["x"] + box["width"] * part, box["y"] + box["height"] / 2)
        at_ns = int(slider.input_value())
        assert abs(at_ns / split.plan.duration_ns - part) < 0.02
        assert table_shown(page) == standing(split, lines_before(split, at_ns))
        assert page.texts("#now") == [f"{at_ns / S:.6f} s"]
        places.append(float(page.page.locator("#cursor").get_attribute("x1") or -1))
    assert places == sorted(set(places))
    page.page.mouse.move(box["x"] + box["width"] * 0.999, box["y"] + box["height"] / 2)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2, steps=5)
    page.page.mouse.up()
    assert abs(int(slider.input_value()) / split.plan.duration_ns - 0.4) < 0.02
    assert table_shown(page) == standing(split, lines_before(split, int(slider.input_value())))


def test_keys_and_buttons_step_from_line_to_line(show: Any, lossy: Played) -> None:
    page = show(lossy)
    first = lines_before(lossy, 0)
    for _ in range(5):
        page.page.keyboard.press("ArrowRight")
    page.page.locator("#forth").click()
    assert table_shown(page) == standing(lossy, first + 6)
    assert page.page.locator("#lines tr.current").get_attribute("data-line") == str(first + 5)
    page.page.keyboard.press("ArrowLeft")
    page.page.locator("#back").click()
    assert table_shown(page) == standing(lossy, first + 4)
    page.page.keyboard.press("End")
    assert table_shown(page) == standing(lossy, len(lossy.lines))


def test_play_lets_time_pass_until_it_is_paused(show: Any, lossy: Played) -> None:
    page = show(lossy)
    page.page.locator("#play").click()
    page.page.wait_for_function("() => Number(document.querySelector('#slider').value) > 2e8")
    page.page.locator("#play").click()
    stopped = page.page.locator("#slider").input_value()
    page.page.evaluate("new Promise(done => setTimeout(done, 100))")
    assert page.page.locator("#slider").input_value() == stopped


def test_faults_are_bands_over_the_lanes_they_befall(show: Any, split: Played) -> None:
    page = show(split)
    faults = [line for line in split.lines if line["kind"] == "fault"]
    assert sorted(page.of_all("#axis g.fault", "all => all.map(each => each.dataset.fault)")) == sorted(
        line["node"] for line in faults
    )
    bands = Counter(page.of_all("#lanes rect.band", "all => all.map(each => each.dataset.fault)"))
    assert bands == {line["node"]: len(line["peer"].split()) for line in faults}
    assert page.page.locator("#lanes rect.calm").count() == 1


def test_faults_for_which_there_is_no_room_are_counted(show: Any) -> None:
    faults = [fault(f"pause-{number}.1", "pause", 1, 9) for number in range(30)]
    run = told(quiet_plan(*faults), *((1, each.name, "fault", "a", 0, "pause") for each in faults))
    page = show(run)
    assert page.page.locator("#axis g.fault").count() == 8
    assert page.page.locator("#more-faults").text_content() == "and 22 more"


def test_strips_show_the_epochs_and_states_of_each_session(show: Any, lossy: Played) -> None:
    page = show(lossy)
    spans = page.of_all(
        "#lanes rect.span", "all => all.map(({dataset: d}) => [d.node, d.peer, d.state + ' epoch ' + d.epoch])"
    )
    said = [[line["node"], line["peer"], line["what"]] for line in lossy.lines if line["kind"] == "state"]
    assert len(said) > 60
    missing = [each for each in said if each not in spans]
    assert len(missing) <= 2, "only what lasts for less than a pixel"
    assert [each for each in spans if each not in said] == []
    colours = page.of_all(
        "#lanes rect.span",
        "all => Object.fromEntries(all.map(each => [each.dataset.epoch, getComputedStyle(each).fill]))",
    )
    assert len({colours[str(epoch)] for epoch in range(7)}) == 7


def test_a_violation_is_marked_and_in_view_when_the_page_opens(show: Any, lossy: Played) -> None:
    until = [line for line in lossy.lines if line["t"] <= BROKEN.at_ns]
    last = {
        "t": BROKEN.at_ns,
        "seq": len(until) + 1,
        "node": "world",
        "kind": "violation",
        "peer": "",
        "size": 0,
        "cause": 0,
    }
    lines = [*until, last | {"what": BROKEN.property}]
    page = show(Played(lossy.plan, "\n".join(map(json.dumps, lines)), lines), failure=BROKEN)
    assert page.page.locator("#lanes line.violation").count() == 1
    assert page.texts("#verdict") == ["safety broken"]
    assert page.texts("#failure") == ["no_nonce_used_twice a key of b at 2.000000 s"]
    assert page.page.locator("#axis text.violation-name").text_content() == "✖ no_nonce_used_twice"
    assert window(page)[1] >= BROKEN.at_ns
    assert page.page.locator("#lines tr.current.violation-row").count() == 1
    page.page.keyboard.press("Home")
    page.page.locator("#to-failure").click()
    assert page.texts("#now") == ["2.000000 s"]


def test_the_replay_command_is_shown_and_copied(show: Any, lossy: Played) -> None:
    page = show(lossy)
    assert page.texts("#replay") == [REPLAY]
    facts = f"3 nodes \u00b7 depth: {lossy.plan.depth} \u00b7 suite aes-gcm \u00b7 60 s of virtual time"
    assert page.texts("#facts")[0].startswith(facts)
    assert page.texts("h1") == ["rekey-under-loss, seed 3"]
    page.page.locator("#copy").click()
    page.page.wait_for_function("() => document.querySelector('#copy').textContent === 'Copied'")
    note = page.page.context.new_page()
    note.set_content("<textarea></textarea>")
    note.locator("textarea").focus()
    note.keyboard.press("Control+V")
    assert note.locator("textarea").input_value() == REPLAY


def test_a_click_on_an_arrow_shows_its_line_and_what_led_to_it(show: Any, lossy: Played) -> None:
    page = show(lossy)
    zoom_to(page, 2 * S)
    place = next(
        line
        for line, fate in arrows_shown(page).items()
        if fate == "arrived"
        and any(each["cause"] == lossy.lines[line]["seq"] for each in lossy.lines)
        and window(page)[0] < lossy.lines[line]["t"] < window(page)[1]
    )
    line = lossy.lines[place]
    page.page.locator(f"g.arrow[data-line='{place}'] .head").dispatch_event(
        "pointerdown", {"bubbles": True, "button": 0}
    )
    page.page.locator(f"g.arrow[data-line='{place}'] .head").dispatch_event("pointerup", {"bubbles": True, "button": 0})
    assert json.loads(page.texts("#picked-line")[0]) == line
    steps = page.of_all("#chain li", "all => all.map(each => Number(each.dataset.line))")
    assert steps[-1] == place
    assert [lossy.lines[each]["seq"] for each in steps[:-1]] == [lossy.lines[each]["cause"] for each in steps[1:]]
    assert lossy.lines[steps[0]]["cause"] == 0
    effects = page.of_all("#effects li", "all => all.map(each => Number(each.dataset.line))")
    assert effects == [each["seq"] - 1 for each in lossy.lines if each["cause"] == line["seq"]]
    page.page.keyboard.press("Escape")
    assert page.page.locator("#picked").is_hidden()


def test_kinds_of_datagrams_and_nodes_can_be_taken_away(show: Any, lossy: Played) -> None:
    page = show(lossy)
    zoom_to(page, 6 * S)
    all_of_them = arrows_shown(page)
    page.page.locator("#kinds label", has_text="data").locator("input").uncheck()
    assert set(arrows_shown(page)) == {line for line in all_of_them if not lossy.lines[line]["what"].startswith("data")}
    page.page.locator("#kinds label", has_text="data").locator("input").check()
    page.page.locator("#lanes-chosen label", has_text="c").locator("input").uncheck()
    assert page.of_all("#lanes g.lane", "all => all.map(each => each.dataset.node)") == ["a", "b"]
    assert arrows_shown(page) == all_of_them  # everything has an end at a or b


def test_dragging_the_chart_moves_the_window(show: Any, lossy: Played) -> None:
    page = show(lossy)
    zoom_to(page, 6 * S)
    start, end = window(page)
    box = page.page.locator("#lanes").bounding_box()
    page.page.mouse.move(box["x"] + 700, box["y"] + 8)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 500, box["y"] + 8, steps=4)
    page.page.mouse.up()
    moved, moved_end = window(page)
    assert moved > start
    assert moved_end - moved == pytest.approx(end - start)
    page.page.locator("#whole").click()
    assert window(page) == (0, 60 * S)
    page.page.locator("#in").click()
    assert window(page)[1] - window(page)[0] == pytest.approx(30 * S)


def test_a_node_is_seen_to_be_down_paused_and_to_forget_its_sessions(show: Any) -> None:
    plan = quiet_plan(
        fault("crash-1.1", "crash", 2, 4), fault("pause-1.1", "pause", 6, 8), fault("restart-1.1", "restart", 9, 9)
    )
    run = told(
        plan,
        (1, "a", "state", "b", 0, "ESTABLISHED epoch 1"),
        (2, "crash-1.1", "fault", "a", 0, "crash"),
        (4, "crash-1.1", "heal", "a", 0, "crash"),
        (5, "a", "state", "b", 0, "ESTABLISHED epoch 1"),
        (6, "pause-1.1", "fault", "a", 0, "pause"),
        (8, "pause-1.1", "heal", "a", 0, "pause"),
        (9, "restart-1.1", "fault", "a", 0, "restart"),
    )
    page = show(run)
    looks = page.of_all("#lanes rect.absence", "all => all.map(each => each.getAttribute('class'))")
    assert looks == ["absence", "absence paused"]
    assert page.page.locator("#lanes line.moment").count() == 1
    seen = []
    for count in range(1, len(run.lines) + 1):
        page.page.keyboard.press("ArrowRight")
        assert table_shown(page) == standing(run, count)
        seen.append(table_shown(page)["a"])
    assert [row[0] for row in seen] == ["up", "down", "up", "up", "paused", "up", "up"]
    assert [row[-1] for row in seen] == ["b: established 1", "", "", *["b: established 1"] * 3, ""]
    assert page.texts("#faults-now") == ["No fault is at work."]


def test_lives_actors_and_the_store_are_told(show: Any) -> None:
    run = told(
        quiet_plan(),
        (0, "a", "state", "b", 0, "INITIATING epoch 0"),
        (0, "a", "node", "", 0, "up"),
        (1, "a", "actor", "dataplane.udp", 0, "started 1"),
        (1, "a", "actor", "dataplane.tun", 0, "started 1"),
        (2, "b", "node", "", 0, "up"),
        (3, "a", "node", "", 0, "udp breaks"),
        (4, "a", "actor", "dataplane.udp", 0, "restarts in 1.000 s"),
        (5, "a", "actor", "dataplane.tun", 0, "failed: PortError"),
        (6, "a", "actor", "dataplane.tun", 0, "stopped"),
        (7, "a", "store", "", 0, "refused grant: no"),
        (8, "a", "node", "", 0, "killed"),
        (9, "a", "node", "", 0, "up"),
    )
    page = show(run)
    seen = []
    page.page.keyboard.press("Home")
    page.page.locator("#back").click()
    page.page.locator("#back").click()
    for count in range(1, len(run.lines) + 1):
        page.page.keyboard.press("ArrowRight")
        table = table_shown(page)
        seen.append((table["b"][0], table["a"][0], table["a"][-1]))
        assert [row[:-1] for row in table.values()] == [row[:-1] for row in standing(run, count).values()]
    session = "b: initiating 0"
    assert seen[:4] == [("not up yet", "up", session)] * 4
    assert seen[4:6] == [("up", "up", session)] * 2
    assert seen[6][2] == f"{session} dataplane.udp: restarts in 1.000 s"
    assert seen[7][2] == f"{session} dataplane.udp: restarts in 1.000 s dataplane.tun: failed: PortError"
    assert seen[9][2] == f"{session} dataplane.udp: restarts in 1.000 s store: refused grant: no"
    assert [status for _, status, _ in seen[9:]] == ["up", "killed", "up"]
    assert "initiating" not in seen[10][2]
    marks = page.of_all("#lanes path.mark", "all => all.map(each => Number(each.dataset.line))")
    assert marks == [1, 2, 4, 5, 6, 7, 8, 9, 10, 11]  # at the same place there is one for all
    bad = page.of_all("#lanes path.mark.bad", "all => all.map(each => Number(each.dataset.line))")
    assert bad == [5, 6, 7, 9, 10]
    assert page.page.locator("#lanes rect.absence").count() == 2


def test_lines_of_an_unknown_kind_are_in_the_list_and_break_nothing(show: Any) -> None:
    run = told(
        quiet_plan(), (1, "a", "eclipse", "moon", 0, "dark"), (2, "nobody", "send", "", 9, ""), (3, "", "", "", 2, "")
    )
    page = show(run)
    page.page.keyboard.press("End")
    assert page.texts("#lines tbody tr")[0].split("\t") == ["1.000000 s", "a", "eclipse", "moon", "dark (96 bytes)"]
    assert len(page.texts("#lines tbody tr")) == 3


def test_hostile_texts_are_shown_as_they_are_and_do_nothing(show: Any) -> None:
    run = told(
        quiet_plan(),
        (1, HOSTILE, "state", HOSTILE, 0, HOSTILE),
        (1, HOSTILE, "send", "b", 0, HOSTILE),
        (1.2, "b", "arrive", HOSTILE, 2, HOSTILE),
        (1.5, HOSTILE, "fault", "a b", 0, HOSTILE),
        (2, "world", "violation", HOSTILE, 0, HOSTILE),
    )
    broken = Failure(Verdict.SAFETY_BROKEN, HOSTILE, HOSTILE, 2 * S)
    page = show(run, failure=broken, replay=HOSTILE)
    page.page.keyboard.press("0")
    page.page.locator("#lines tbody tr").nth(1).click()
    for selector in ("#replay", "#property", "#message", "#lines tr.violation-row td:nth-child(4)"):
        assert page.page.locator(selector).text_content() == HOSTILE
    assert page.page.locator("script").count() == 2
    assert page.page.locator("img").count() == 0


def test_a_policy_stands_in_the_way_of_any_other_script_and_of_any_resource(show: Any, lossy: Played) -> None:
    page = show(lossy)
    page.page.evaluate(
        "document.head.append(Object.assign(document.createElement('link'), {rel: 'stylesheet', href: 'https://example.com/x.css'}))"
    )
    page.page.evaluate(
        "document.body.append(Object.assign(document.createElement('img'), {src: 'https://example.com/x.png'}))"
    )
    page.page.evaluate("fetch('https://example.com/').catch(() => 0)")
    assert len([each for each in page.wrongs if "Content Security Policy" in each]) >= 3
    assert set(page.refused) == set(page.requests[1:])
    assert set(page.refused.values()) <= {"csp"}
    page.wrongs.clear()
    del page.requests[1:]


def test_light_and_dark_differ_and_both_are_legible(show: Any, lossy: Played) -> None:
    def brightness(page: Opened, selector: str, of: str) -> float:
        colour = page.of_all(selector, f"all => getComputedStyle(all[0]).{of}")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    for is_dark in (False, True):
        page = show(lossy, is_dark=is_dark)
        ground = brightness(page, "body", "backgroundColor")
        assert (ground < 128) == is_dark
        for selector, of in (
            ("h1", "color"),
            ("#lanes text.name", "fill"),
            ("#axis text.tick", "fill"),
            ("#state th", "color"),
        ):
            assert abs(brightness(page, selector, of) - ground) > 100


def test_a_thousand_nodes_give_a_page_that_shows_some_and_finds_the_others(show: Any) -> None:
    run = crowd_run(1000, 20_000)
    page = show(run)
    assert page.page.locator("#lanes g.lane").count() == 40
    assert "40 of 1000 nodes are shown" in page.texts("#lanes-chosen")[0]
    assert page.page.locator("#lanes > g *").count() < 20_000
    page.page.locator("#lanes-chosen input").fill("n999, n77")
    shown = page.of_all("#lanes g.lane", "all => all.map(each => each.dataset.node)")
    assert shown == ["n77", *(f"n77{digit}" for digit in range(10)), "n999"]
    assert list(table_shown(page)) == shown


def test_a_page_that_leaves_lines_out_says_so_and_counts_them(show: Any) -> None:
    run = crowd_run(3, 1000)
    _, extent = page_of(run, traffic=500)
    assert extent == Extent(read=2000, left_out=1500, unreadable=0)
    page = show(run, traffic=500)
    assert "1,500 of 2,000 lines are left out" in page.texts("#left-out")[0]
    assert page.page.locator("#lanes rect.gap").count() == 1
    page.page.keyboard.press("End")
    assert table_shown(page) == standing(run, 2000)
    whole = show(run)
    assert whole.page.locator("#left-out").is_hidden()
