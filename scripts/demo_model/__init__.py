"""The parts of scripts/train_demo_model.py: story grammar, vocabulary, network, training, export."""
