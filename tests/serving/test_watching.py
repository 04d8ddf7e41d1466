"""What a real server tells of itself: /props, /slots, /metrics, and what it saves of a slot."""

import re
from pathlib import Path

import httpx
import pytest

from tests.helpers.server_process import RunningServer
from tests.helpers.word_model import word_model
from tests.serving.conftest import Servers

EXPECTED = {
    "counter": [
        *("prompt_tokens_total", "prompt_tokens_cached_total", "prompt_seconds_total", "tokens_predicted_total"),
        *("tokens_predicted_seconds_total", "n_decode_total", "n_tokens_max", "spec_decode_num_draft_tokens_total"),
        *("spec_decode_num_accepted_tokens_total", "spec_decode_num_drafts_total"),
    ],
    "gauge": [
        *("prompt_tokens_seconds", "predicted_tokens_seconds", "requests_processing", "requests_deferred"),
        *("n_busy_slots_per_decode", "kv_cache_usage_ratio", "kv_cache_tokens"),
    ],
}


@pytest.fixture(scope="module")
def divided(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    """Two slots of 128 tokens each, that can be saved."""
    folder = tmp_path_factory.mktemp("divided")
    model = word_model().write(folder / "words.gguf")
    flags = ["-m", str(model), "-c", "256", "-np", "2", "-t", "1", "--temp", "0", "--props"]
    return servers(*flags, "--slot-save-path", str(folder / "slots"), "--metrics")


def complete(server: RunningServer, prompt: str, n_predict: int, **more: object) -> dict[str, dict[str, float]]:
    answer = server.client.post("/completion", json={"prompt": prompt, "n_predict": n_predict, **more})
    assert answer.status_code == 200, answer.text
    body: dict[str, dict[str, float]] = answer.json()
    return body


def read_metrics(server: RunningServer) -> dict[str, tuple[str, float]]:
    """name -> (type, value); each has a line of help."""
    answer = server.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert int(answer.headers["Process-Start-Time-Unix"]) > 1_600_000_000
    found = {}
    blocks = re.findall(r"# HELP (\S+) \S.*\n# TYPE (\S+) (\w+)\n(\S+) (\S+)\n", answer.text)
    assert len(blocks) * 3 == answer.text.count("\n")
    for named, typed, kind, name, value in blocks:
        assert named == typed == name
        found[name] = (kind, float(value))
    return found


def test_props(client: httpx.Client, divided: RunningServer) -> None:
    body = client.get("/props").json()
    assert body["total_slots"] == 4
    assert body["model_path"].endswith(".gguf")
    assert body["default_generation_settings"]["n_ctx"] == 512  # what the model was trained on
    params = body["default_generation_settings"]["params"]
    assert (params["seed"], params["temperature"], params["n_predict"]) == (42, 0.0, -1)
    assert params["samplers"][0] == "penalties"
    assert body["chat_template"]
    assert body["modalities"] == {"vision": False, "video": False, "audio": False}
    assert client.post("/props", json={}).status_code == 501
    assert divided.client.get("/props").json()["default_generation_settings"]["n_ctx"] == 128
    assert divided.client.post("/props", json={}).json() == {"success": True}


def test_metrics_count_what_requests_say(divided: RunningServer) -> None:
    before = read_metrics(divided)
    for kind, names in EXPECTED.items():
        for name in names:
            assert before[f"llamacpp:{name}"][0] == kind
    timings = [complete(divided, "the quick brown fox jumps", n)["timings"] for n in (1, 4, 8)]
    after = read_metrics(divided)

    def grown(name: str) -> float:
        return after[f"llamacpp:{name}"][1] - before[f"llamacpp:{name}"][1]

    assert grown("prompt_tokens_total") == sum(one["prompt_n"] for one in timings)
    assert grown("prompt_tokens_cached_total") == sum(one["cache_n"] for one in timings) > 0
    assert grown("tokens_predicted_total") == sum(one["predicted_n"] for one in timings) == 13
    assert grown("n_decode_total") >= 10
    assert after["llamacpp:requests_processing"][1] == 0
    assert after["llamacpp:predicted_tokens_seconds"][1] > 0
    assert read_metrics(divided)["llamacpp:predicted_tokens_seconds"][1] == 0  # nothing since the last time
    assert 0 < after["llamacpp:kv_cache_usage_ratio"][1] <= 1
    assert after["process_resident_memory_bytes"][1] > 1e7


def test_metrics_tell_of_neurons(server: RunningServer) -> None:
    complete(server, "Once upon a time", 4)
    metrics = read_metrics(server)
    active, predicted = (metrics[f"powerinfer:{name}_neuron_share"][1] for name in ("active", "predicted"))
    assert 0 < active <= predicted < 1
    assert metrics["powerinfer:hot_neuron_share"] == ("gauge", 0)  # there is no GPU
    assert metrics["powerinfer:compute_seconds_total"][1] > 0
    assert "powerinfer:expert_hit_rate" not in metrics  # there are no experts
    assert metrics["powerinfer:uploads_total"] == metrics["powerinfer:uploaded_bytes_total"] == ("counter", 0)
    assert metrics["powerinfer:kv_cache_gpu_bytes"] == metrics["powerinfer:kv_cache_overflow_bytes"] == ("gauge", 0)
    assert metrics["powerinfer:cold_tier_seconds_total"] == ("counter", 0)
    assert metrics["powerinfer:outside_cold_tier_seconds_total"] == metrics["powerinfer:compute_seconds_total"]
    told = server.client.get("/internal/neurons").json()
    assert (told["sparse"], told["devices"]) == (True, [])
    assert [layer["index"] for layer in told["layers"]] == list(range(len(told["layers"])))
    assert all(layer["hot"] == 0 < layer["active"] < 1 for layer in told["layers"])
    mean = sum(layer["active"] for layer in told["layers"]) / len(told["layers"])
    assert mean == pytest.approx(active, rel=1e-6)


def test_slots_are_saved_restored_and_erased(divided: RunningServer) -> None:
    client = divided.client
    prompt = "the capital of France is a large city"
    first = complete(divided, prompt, 4, id_slot=1)
    views = client.get("/slots").json()
    assert [view["id"] for view in views] == [0, 1]
    assert [view["n_ctx"] for view in views] == [128, 128]
    assert views[1]["params"]["n_predict"] == 4
    assert not views[1]["is_processing"]
    assert prompt not in str(views)
    saved = client.post("/slots/1?action=save", json={"filename": "one.bin"}).json()
    assert (saved["id_slot"], saved["filename"], saved["n_saved"]) == (1, "one.bin", views[1]["n_prompt_tokens"])
    assert saved["n_written"] > 0
    assert saved["timings"]["save_ms"] > 0
    erased = client.post("/slots/1?action=erase").json()
    assert erased == {"id_slot": 1, "n_erased": saved["n_saved"]}
    assert client.post("/slots/1?action=erase", json={}).json() == {"id_slot": 1, "n_erased": 0}
    restored = client.post("/slots/0?action=restore", json={"filename": "one.bin"}).json()
    assert (restored["n_restored"], restored["n_read"]) == (saved["n_saved"], saved["n_written"])
    again = complete(divided, prompt, 4, id_slot=0)
    assert again["content"] == first["content"]
    assert again["timings"]["prompt_n"] == 1


@pytest.mark.parametrize(
    "filename", ["", ".", "..", "../one.bin", "a/b", "a\\b", ".hidden", "a\x00b", "a\nb", " a", "a ", "c:d", "x" * 300]
)
def test_hostile_file_names(divided: RunningServer, filename: str) -> None:
    answer = divided.client.post("/slots/0?action=save", json={"filename": filename})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "Invalid filename")


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/slots/7?action=erase", None, "slot"),
        ("/slots/x?action=erase", None, "Invalid slot ID"),
        ("/slots/-1?action=erase", None, "Invalid slot ID"),
        ("/slots/0?action=dance", None, "Invalid action"),
        ("/slots/0", None, "Invalid action"),
        ("/slots/0?action=save", None, "filename"),
        ("/slots/0?action=save", {"filename": 3}, '"filename"'),
        ("/slots/0?action=restore", {"filename": "nowhere.bin"}, ""),
    ],
)
def test_wrong_actions(divided: RunningServer, path: str, body: dict[str, object] | None, message: str) -> None:
    answer = divided.client.post(path, json=body) if body is not None else divided.client.post(path)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_all_slots_busy(client: httpx.Client) -> None:
    assert client.get("/slots?fail_on_no_slot=1").status_code == 200


def test_no_file_is_left_by_what_was_refused(divided: RunningServer) -> None:
    folder = Path(divided.client.get("/props").json()["model_path"]).parent / "slots"
    assert [path.name for path in folder.iterdir()] == ["one.bin"]
