"""State machines and comparisons of other directories, with many more examples."""

from pathlib import Path

import pytest

from ledger.processes.settings import SearchOn
from tests.contract.client import Client
from tests.contract.test_bad_input import send_odd_arrays, send_odd_bodies, send_odd_requests
from tests.contract.test_openapi import compare_with_schemathesis
from tests.integration.test_handlers import Handler, run_any_handlers
from tests.property.arenas import Arena
from tests.property.test_ledger_machine import run_ledger_machine
from tests.property.test_one_outcome import end_attempts
from tests.property.test_search_engines import ENGINES, compare_with_plain_python
from tests.property.test_worker_machine import run_worker_machine
from tests.unit.test_last_report import perform_any_outcomes
from tests.unit.test_testing import (
    create_jobs_of_the_strategy,
    follow_histories_of_the_strategy,
    submit_commands_of_the_strategy,
)
from tests.unit.test_words import misread_characters


def test_the_ledger_is_what_its_history_says(arena: Arena) -> None:
    run_ledger_machine(arena, examples=50)


def test_no_job_is_lost_or_done_twice_whatever_workers_do(arena: Arena) -> None:
    run_worker_machine(arena, examples=100)


def test_one_command_ends_an_attempt_and_it_is_the_first(arena: Arena) -> None:
    end_attempts(arena, examples=2_000)


def test_whatever_a_handler_does_ends_its_attempt() -> None:
    perform_any_outcomes(examples=5_000)


def test_every_job_ends_whatever_its_handler_does_and_its_slot_is_free(handler: Handler) -> None:
    run_any_handlers(handler, examples=200)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_finds_what_plain_python_finds(
    arena: Arena, engine: SearchOn, tmp_path: Path
) -> None:
    compare_with_plain_python(arena, engine, tmp_path, examples=100)


def test_every_character_is_what_plain_python_takes_it_for() -> None:
    assert misread_characters(step=1) == []


def test_no_body_is_too_odd_to_be_answered(rabble: Client) -> None:
    send_odd_bodies(rabble, examples=1_000)


def test_no_array_is_too_odd_to_be_answered(rabble: Client) -> None:
    send_odd_arrays(rabble, examples=1_000)


def test_no_request_is_too_odd_to_be_answered(rabble: Client) -> None:
    send_odd_requests(rabble, examples=1_000)


def test_schemathesis_finds_no_difference_between_app_and_description(rabble: Client) -> None:
    compare_with_schemathesis(rabble, examples=20, fewest_checks=500)


def test_every_job_of_the_strategy_can_be_created() -> None:
    create_jobs_of_the_strategy(examples=200)


def test_every_command_of_the_strategy_is_one_that_the_ledger_answers() -> None:
    submit_commands_of_the_strategy(examples=300)


def test_a_history_is_gapless_in_order_and_permitted() -> None:
    follow_histories_of_the_strategy(examples=300)
