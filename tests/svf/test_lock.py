import threading
import time

from t2local.svf.model import FairLock


def test_a_thread_may_enter_again_and_others_only_after_its_last_exit():
    lock, entered = FairLock(), threading.Event()

    def other():
        with lock:
            entered.set()

    with lock:
        with lock:
            thread = threading.Thread(target=other)
            thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(5)
    thread.join()


def test_it_is_handed_on_in_the_order_of_asking():
    lock, order, threads = FairLock(), [], []

    def ask(number):
        with lock:
            order.append(number)

    with lock:
        for number in range(8):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            while len(lock._waiting) <= number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == list(range(8))


def test_a_greedy_thread_cannot_keep_another_one_waiting():
    """Whoever takes the lock again at once comes after everyone who has waited meanwhile."""
    lock, stop, turns, waited = FairLock(), threading.Event(), [0], []

    def greedy():
        while not stop.is_set():
            with lock:
                turns[0] += 1
                time.sleep(0.002)

    thread = threading.Thread(target=greedy)
    thread.start()
    for _ in range(20):
        time.sleep(0.003)
        before = turns[0]
        with lock:
            waited.append(turns[0] - before)
    stop.set()
    thread.join()
    assert max(waited) <= 2, waited  # the turn in progress, and one begun while asking


def test_it_is_given_back_after_an_error():
    lock = FairLock()
    try:
        with lock:
            raise ValueError
    except ValueError:
        pass
    thread = threading.Thread(target=lambda: lock.__enter__().__exit__())
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
