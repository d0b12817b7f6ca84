"""Hugging Face transformers' XGLM with random weights, in PyTorch's eager mode: on the CPU or with CUDA."""

import torch
import transformers

from peer import main

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


class Model:
    def __init__(self, job):
        shape = job["shape"]
        self.threads = job["threads"] if job["device"] == "cpu" else job["threads"][:1]
        if job["device"] == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("no CUDA device: see install.py --cuda")
        config = transformers.XGLMConfig(
            vocab_size=shape["vocab"], d_model=shape["d_model"], num_layers=shape["layers"],
            attention_heads=shape["heads"], ffn_dim=shape["ffn"], max_position_embeddings=2048, use_cache=True,
        )
        # Made in the dtype and on the device where it stays, so that there is never a second copy.
        torch.set_default_dtype(DTYPES[job["dtype"]])
        if job["device"] == "cuda":
            torch.set_default_device("cuda")
        with torch.inference_mode():
            self.model = transformers.XGLMForCausalLM(config).eval().to(job["device"])
        self.device, self.cache = job["device"], None

    def settings(self):
        for threads in self.threads:
            torch.set_num_threads(threads)
            yield f"threads {threads}"

    def keep(self, n):
        if n == 0:
            self.cache = None
        elif hasattr(self.cache, "crop"):
            self.cache.crop(n)
        else:
            self.cache = tuple((k[:, :, :n], v[:, :, :n]) for k, v in self.cache)

    def feed(self, ids):
        with torch.inference_mode():
            tokens = torch.tensor([ids], device=self.device)
            out = self.model.model(tokens, past_key_values=self.cache, use_cache=True)
            self.cache = out.past_key_values
            # The last token's logits alone, as the others compute; reading them waits for the device.
            self.model.lm_head(out.last_hidden_state[:, -1]).float().cpu()


def load(job):
    transformers.logging.set_verbosity_error()
    name = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return Model(job), {"engine": name}


if __name__ == "__main__":
    main(load)
