"""llama.cpp on a GPT-2 of the same shape: random weights in f16, q8_0 or q4_0, an f16 KV cache, on a Vulkan device or the CPU."""

import ctypes
from pathlib import Path

import gguf
import gguf.quants
import llama_cpp
import numpy
from llama_cpp._ggml import libggml

from peer import main

CONTEXT = 2048


def tensors(shape):
    """Names and shapes, in the file's order; GPT-2's head is its embedding, as InCoder's."""
    d, ffn = shape["d_model"], shape["ffn"]
    yield "token_embd.weight", (shape["vocab"], d)
    yield "position_embd.weight", (CONTEXT, d)
    for layer in range(shape["layers"]):
        parts = {"attn_norm": d, "attn_qkv": (3 * d, d), "attn_output": (d, d)}
        parts |= {"ffn_norm": d, "ffn_up": (ffn, d), "ffn_down": (d, ffn)}
        for part, size in parts.items():
            weight, bias = (size, size[0]) if isinstance(size, tuple) else ((size,), size)
            yield f"blk.{layer}.{part}.weight", weight
            yield f"blk.{layer}.{part}.bias", (bias,)
    yield "output_norm.weight", (d,)
    yield "output_norm.bias", (d,)


def kind(name, size, dtype):
    """How a tensor is stored: the embedding in 8 bits at least, as incoder's, and what is no matrix of a layer as it always is."""
    if len(size) == 1:
        return gguf.GGMLQuantizationType.F32
    if dtype == "f16" or name == "position_embd.weight":
        return gguf.GGMLQuantizationType.F16
    return gguf.GGMLQuantizationType.Q4_0 if dtype == "q4_0" and name != "token_embd.weight" else gguf.GGMLQuantizationType.Q8_0


def values(name, shape, stored, random):
    if len(shape) == 1:
        return numpy.full(shape, float("norm.weight" in name), numpy.float32)
    plain = random.standard_normal(shape, numpy.float32) / shape[1] ** 0.5
    return plain.astype(numpy.float16) if stored == gguf.GGMLQuantizationType.F16 else gguf.quants.quantize(plain, stored)


def write(path, shape, dtype):
    """Tensor by tensor, so that memory does not grow with the model."""
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "gpt2")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape["d_model"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(shape["vocab"])
    writer.add_tokenizer_model("none")
    for name, size in tensors(shape):
        stored = kind(name, size, dtype)
        block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
        count = int(numpy.prod(size)) // block * block_bytes
        if block > 1:
            # Of quantized tensors gguf wants the shape in bytes.
            row = size[1] // block * block_bytes
            writer.add_tensor_info(name, (size[0], row), numpy.dtype(numpy.uint8), count, raw_dtype=stored)
        else:
            plain = numpy.float32 if stored == gguf.GGMLQuantizationType.F32 else numpy.float16
            writer.add_tensor_info(name, size, numpy.dtype(plain), count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = numpy.random.default_rng(1)
    for name, size in tensors(shape):
        writer.write_tensor_data(values(name, size, kind(name, size, dtype), random))
    writer.close()
    part.rename(path)


def device_names():
    """The devices that llama.cpp would put layers on, by their drivers' names."""
    for function, kind in [("get", ctypes.c_void_p), ("description", ctypes.c_char_p), ("type", ctypes.c_int)]:
        getattr(libggml, f"ggml_backend_dev_{function}").restype = kind
    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    devices = [libggml.ggml_backend_dev_get(ctypes.c_size_t(i)) for i in range(libggml.ggml_backend_dev_count())]
    gpus = [d for d in devices if libggml.ggml_backend_dev_type(ctypes.c_void_p(d)) != 0]
    return [libggml.ggml_backend_dev_description(ctypes.c_void_p(d)).decode() for d in gpus]


class Model:
    def __init__(self, job):
        on_gpu = job["device"] == "vulkan"
        llama_cpp.llama_backend_init()
        names = device_names() if on_gpu else []
        if on_gpu and names != [job["adapter"]]:
            found = ", ".join(names) or "no device"
            raise RuntimeError(f"llama.cpp has {found} and incoder {job['adapter']}: see --vk-index")
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 999 if on_gpu else 0
        if not on_gpu:
            # An empty list: otherwise it computes long prompts on the GPU even so.
            self.none = (ctypes.c_void_p * 1)(None)
            params.devices = ctypes.cast(self.none, ctypes.c_void_p)
        self.model = llama_cpp.llama_model_load_from_file(job["gguf"].encode(), params)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {job['gguf']}")
        self.threads = job["threads"][:1] if on_gpu else job["threads"]

    def settings(self):
        """Flash attention slows some adapters down, and threads that share a core wait for each other."""
        for threads in self.threads:
            for flash in (1, 0):
                params = llama_cpp.llama_context_default_params()
                params.n_ctx = params.n_batch = CONTEXT
                params.n_threads = params.n_threads_batch = threads
                params.flash_attn_type = flash
                self.context = llama_cpp.llama_init_from_model(self.model, params)
                if not self.context:
                    raise RuntimeError("llama.cpp cannot make a context of 2048 tokens")
                yield f"threads {threads}, flash attention {'on' if flash else 'off'}"
                llama_cpp.llama_free(self.context)

    def keep(self, n):
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), 0, n, -1)

    def feed(self, ids):
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        failed = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        if failed:
            raise RuntimeError(f"llama_decode returned {failed}")
        # Waits for the device.
        llama_cpp.llama_get_logits_ith(self.context, -1)[0]


def load(job):
    path = Path(job["gguf"])
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, job["shape"], job["dtype"])
    return Model(job), {"engine": f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"}


if __name__ == "__main__":
    main(load)
