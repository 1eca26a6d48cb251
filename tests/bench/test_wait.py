from t2local.bench.training_step import waits_while_training


def test_a_chat_gets_the_model_again_and_again_while_a_run_trains(loaded, svf):
    waits = waits_while_training(loaded, svf, rounds=10)
    assert len(waits.waits_s) == 10
    assert waits.micro_batch_s > 0
    # Seconds are for the bench; here only that nobody starves: a step is four micro-batches' time.
    assert sorted(waits.waits_s)[5] < 4 * waits.micro_batch_s
