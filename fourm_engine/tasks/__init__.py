"""What a run trains: the 4M model, a tokenizer, a transfer head. Each is a `fourm_engine.train.task.Task`."""
