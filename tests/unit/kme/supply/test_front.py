"""What is asked from other threads: answered once it is committed, refused where it cannot be, and never left open."""

import threading
from concurrent.futures import CancelledError

import pytest

from kme.applications import Caller, KeyRequest, TryLaterError
from kme.supply.front import BURST_S, Front, Throttle
from kme.supply.question import Question
from qkdrelay.errors import StoreError
from qkdrelay.service.mailbox import Mailbox, MailboxFullError

NOW = 1_700_000_000.0
ASKER = Caller("m1", "00" * 32)


class Requests:
    """Takes what is asked, and answers nothing."""

    def __init__(self):
        self.asked = []

    def status(self, question, now):
        self.asked.append(question)

    def take(self, question, request, now):
        self.asked.append(question)

    def fetch(self, question, key_ids, now):
        self.asked.append(question)


class Room:
    def __init__(self):
        self.requests = Requests()


@pytest.fixture
def front():
    return Front(Room(), Mailbox(lambda: None), Throttle(1e6))


def ask(front):
    return [
        front.status(ASKER, "s1"),
        front.take(ASKER, KeyRequest("s1", 1, 256)),
        front.fetch(ASKER, "s1", []),
    ]


def test_what_is_asked_waits_for_the_loops_thread(front):
    answers = ask(front)
    assert front._room.requests.asked == []
    for post in front._mailbox.take(10):
        post.do(NOW)
        post.tell()
    assert len(front._room.requests.asked) == 3
    assert not any(answer.done() for answer in answers)
    for question in front._room.requests.asked:
        question.tell(["answer"])
    assert [answer.result(timeout=0) for answer in answers] == [["answer"]] * 3


@pytest.mark.parametrize(
    ("error", "said"), [(StoreError("full"), "store"), (ValueError("a mistake"), "handled"), (CancelledError(), "stop")]
)
def test_what_could_not_be_committed_is_refused(front, error, said):
    answers = ask(front)
    for post in front._mailbox.take(10):
        post.fail(error)
    for answer in answers:
        with pytest.raises(TryLaterError, match=said):
            answer.result(timeout=0)
        assert "mistake" not in str(answer.exception())


def test_once_the_service_has_ended_everything_is_refused_at_once(front):
    before = ask(front)
    front._mailbox.close()
    for answer in [*before, *ask(front)]:
        with pytest.raises(TryLaterError, match="stopping"):
            answer.result(timeout=0)


def test_too_much_that_waits_is_refused(front, monkeypatch):
    def full(work):
        raise MailboxFullError("full")

    monkeypatch.setattr(front._mailbox, "post", full)
    for answer in ask(front):
        with pytest.raises(TryLaterError, match="too many"):
            answer.result(timeout=0)


def test_who_gives_up_is_not_asked_for(front):
    (answer, *_) = ask(front)
    assert answer.cancel()
    for post in front._mailbox.take(10):
        post.do(NOW)
    question = front._room.requests.asked[0]
    assert question.is_gone()
    assert not question.begin()
    question.tell(["too late"])
    assert answer.cancelled()


def test_who_is_about_to_be_answered_cannot_give_up_any_more():
    question = Question(ASKER, "s1")
    assert question.begin()
    assert not question.answer.cancel()
    assert question.begin()
    assert not question.is_gone()
    question.tell(["keys"])
    question.tell(["others"])
    assert question.answer.result(timeout=0) == ["keys"]


def test_one_sae_asks_no_more_than_it_may_and_others_are_served():
    now = [0.0]
    throttle = Throttle(10.0, lambda: now[0])
    assert sum(throttle.allows("m1") for _ in range(100)) == 10 * BURST_S
    assert throttle.allows("m2")
    now[0] += 0.5
    assert sum(throttle.allows("m1") for _ in range(100)) == 5
    now[0] += 1e6
    assert sum(throttle.allows("m1") for _ in range(100)) == 10 * BURST_S


def test_who_asks_too_often_is_told_so():
    front = Front(Room(), Mailbox(lambda: None), Throttle(0.1))
    front.status(ASKER, "s1")
    with pytest.raises(TryLaterError, match="m1 asks too often"):
        front.status(ASKER, "s1").result(timeout=0)


def test_many_threads_are_all_counted():
    throttle = Throttle(1.0, lambda: 0.0)
    allowed = []
    threads = [threading.Thread(target=lambda: allowed.append(throttle.allows("m1"))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(allowed) == 2
