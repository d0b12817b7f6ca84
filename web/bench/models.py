"""Models of random weights for the peers: GPT-2's architecture in the sizes given, as ONNX (fp32) and as GGUF (fp16).

Usage: models.py FOLDER '{"layers": 8, "d": 512, "heads": 8, "ffn": 2048, "vocab": 8192, "context": 2048}'
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

EPSILON = 1e-5


def weights(layers, d, ffn, vocab, context, **_):
    """Tensors by GGUF's names; matrices are [out, in], of a scale that keeps activations near 1."""
    random = np.random.default_rng(1)
    made = {}

    def linear(name, out, inputs):
        made[f"{name}.weight"] = random.standard_normal((out, inputs), dtype=np.float32) / np.float32(inputs**0.5)
        made[f"{name}.bias"] = random.standard_normal(out, dtype=np.float32) * np.float32(0.05)

    def norm(name):
        made[f"{name}.weight"], made[f"{name}.bias"] = np.ones(d, np.float32), np.zeros(d, np.float32)

    made["token_embd.weight"] = random.standard_normal((vocab, d), dtype=np.float32)
    made["position_embd.weight"] = random.standard_normal((context, d), dtype=np.float32)
    for layer in range(layers):
        norm(f"blk.{layer}.attn_norm")
        linear(f"blk.{layer}.attn_qkv", 3 * d, d)
        linear(f"blk.{layer}.attn_output", d, d)
        norm(f"blk.{layer}.ffn_norm")
        linear(f"blk.{layer}.ffn_up", ffn, d)
        linear(f"blk.{layer}.ffn_down", d, ffn)
    norm("output_norm")
    return made


def write_gguf(path, made, layers, d, heads, ffn, vocab, context):
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(context)
    writer.add_embedding_length(d)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(EPSILON)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # wllama takes texts only: " q e x" is three tokens, and every other name is just a name.
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["<|endoftext|>", "Ċ", "Ġ", *letters, *(f"Ġ{letter}" for letter in letters)]
    writer.add_token_list(words + [f"t{i}" for i in range(len(words), vocab)])
    writer.add_token_types([gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (vocab - 1))
    writer.add_token_merges([f"Ġ {letter}" for letter in letters])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    for name, values in made.items():
        writer.add_tensor(name, values.astype(np.float16) if values.ndim == 2 else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_onnx(path, made, layers, d, heads, **_):
    """With the fused attention that exporters for onnxruntime write; the names are those that transformers.js feeds."""
    nodes, constants = [], {}

    def constant(name, values):
        constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def op(kind, inputs, outputs, domain="", **attributes):
        outputs = [outputs] if isinstance(outputs, str) else outputs
        nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return outputs[0]

    def linear(x, name, out):
        product = op("MatMul", [x, constant(f"{name}.weight", made[f"{name}.weight"].T)], f"{out}_product")
        return op("Add", [product, constant(f"{name}.bias", made[f"{name}.bias"])], out)

    def norm(x, name, out):
        scale, bias = (constant(f"{name}.{part}", made[f"{name}.{part}"]) for part in ("weight", "bias"))
        return op("LayerNormalization", [x, scale, bias], out, epsilon=EPSILON)

    one = constant("one", np.array([1], np.int64))
    summed = op("ReduceSum", ["attention_mask", one], "mask_sum", keepdims=0)
    seqlens = op("Cast", [op("Sub", [summed, one], "last")], "seqlens_k", to=TensorProto.INT32)
    total = op("Gather", [op("Shape", ["attention_mask"], "mask_shape"), constant("axis", np.array(1))], "total")
    total = op("Cast", [total], "total_length", to=TensorProto.INT32)
    embedding = constant("token_embd.weight", made["token_embd.weight"])
    positions = constant("position_embd.weight", made["position_embd.weight"])
    x = op("Gather", [embedding, "input_ids"], "tokens")
    x = op("Add", [x, op("Gather", [positions, "position_ids"], "positions")], "embedded")
    for i in range(layers):
        block = f"blk.{i}"
        qkv = linear(norm(x, f"{block}.attn_norm", f"{block}.a"), f"{block}.attn_qkv", f"{block}.qkv")
        parts = [f"{block}.{part}" for part in "qkv"]
        op("Split", [qkv], parts, axis=-1, num_outputs=3)
        past = [f"past_key_values.{i}.{part}" for part in ("key", "value")]
        outputs = [f"{block}.attended", f"present.{i}.key", f"present.{i}.value"]
        attended = op("GroupQueryAttention", [*parts, *past, seqlens, total], outputs, "com.microsoft", num_heads=heads, kv_num_heads=heads)
        x = op("Add", [x, linear(attended, f"{block}.attn_output", f"{block}.o")], f"{block}.h")
        up = linear(norm(x, f"{block}.ffn_norm", f"{block}.f"), f"{block}.ffn_up", f"{block}.up")
        down = linear(op("Gelu", [up], f"{block}.gelu", approximate="tanh"), f"{block}.ffn_down", f"{block}.down")
        x = op("Add", [x, down], f"{block}.out")
    # As exporters do it: the head sees the last token only.
    last = [constant(name, np.array([at], np.int64)) for name, at in (("from", -1), ("to", 2**31), ("token_axis", 1))]
    x = op("Slice", [norm(x, "output_norm", "normed"), *last], "last_token")
    op("MatMul", [x, op("Transpose", [embedding], "head", perm=[1, 0])], "logits")

    def value(name, kind, shape):
        return helper.make_tensor_value_info(name, kind, shape)

    def cache(name, length):
        shape = ["batch_size", heads, length, d // heads]
        return [value(f"{name}.{i}.{part}", TensorProto.FLOAT, shape) for i in range(layers) for part in ("key", "value")]

    ids = [value(name, TensorProto.INT64, ["batch_size", "tokens"]) for name in ("input_ids", "position_ids")]
    mask = value("attention_mask", TensorProto.INT64, ["batch_size", "all"])
    vocab = made["token_embd.weight"].shape[0]
    logits = value("logits", TensorProto.FLOAT, ["batch_size", 1, vocab])
    inputs = [*ids, mask, *cache("past_key_values", "past")]
    graph = helper.make_graph(nodes, "gpt2", inputs, [logits, *cache("present", "all")], list(constants.values()))
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def main():
    folder, shape = Path(sys.argv[1]), json.loads(sys.argv[2])
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    made = weights(**shape)
    write_onnx(folder / "onnx/model.onnx", made, **shape)
    write_gguf(folder / "model.gguf", made, **shape)
    config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": shape["vocab"]}
    sizes = {"n_embd": shape["d"], "n_layer": shape["layers"], "n_head": shape["heads"], "n_positions": shape["context"]}
    # Written last: the folder is whole when it is there.
    (folder / "config.json").write_text(json.dumps({**config, **sizes}))


main()
