"""Lines of progress: as rare as asked for, and labelled."""

from __future__ import annotations

from comp_lib.utils import progress


def test_a_line_is_written_when_enough_time_has_passed_since_the_last_one(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    write_line = progress.with_label("stock 10%", progress.log_lines(8.0))
    for finished, now in enumerate((105.0, 108.0, 115.0, 116.5), 1):
        clock[0] = now
        write_line("pruning", finished, 4)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "stock 10%: pruning: 2 of 4, 8 s\nstock 10%: pruning: 4 of 4, 16 s\n"
