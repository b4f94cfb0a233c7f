using Native.Kernels.Files;
using Native.Server.Serving;
using TorchSharp.Modules;

namespace Native.Tools.DemoModel;

/// <summary>The trained network as the GGUF file that llama.cpp and Native read.</summary>
internal static class Export
{
    // ChatML. Content is trimmed of nothing; a conversation may start with a system turn.
    public const string ChatTemplate =
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}" +
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    public static void Save(Llama model, Tokenizer tokenizer, string path)
    {
        Shape shape = model.Shape;
        var gguf = new GgufWriter();
        gguf.Add("general.architecture", "llama");
        gguf.Add("general.type", "model");
        gguf.Add("general.name", "Native demo: little stories");
        gguf.Add("general.author", "The Native authors");
        gguf.Add("general.description", "Tells short stories of its own small world and answers questions about them. Trained by tools/demo-model.");
        gguf.Add("general.license", "mit");
        gguf.Add("general.languages", ["en"]);
        gguf.Add("general.file_type", 7u); // mostly Q8_0
        gguf.Add("general.quantization_version", 2u);
        gguf.Add("general.sampling.temp", 0.7f); // varied stories without slips of the pen
        gguf.Add("llama.vocab_size", (uint)shape.Vocabulary);
        gguf.Add("llama.context_length", (uint)shape.Context);
        gguf.Add("llama.embedding_length", (uint)shape.Width);
        gguf.Add("llama.block_count", (uint)shape.Layers);
        gguf.Add("llama.feed_forward_length", (uint)shape.FeedForward);
        gguf.Add("llama.attention.head_count", (uint)shape.Heads);
        gguf.Add("llama.attention.head_count_kv", (uint)shape.KvHeads);
        gguf.Add("llama.attention.layer_norm_rms_epsilon", shape.RmsEpsilon);
        gguf.Add("llama.rope.dimension_count", (uint)shape.HeadWidth);
        gguf.Add("llama.rope.freq_base", shape.RopeBase);
        gguf.Add("tokenizer.ggml.model", "gpt2");
        gguf.Add("tokenizer.ggml.pre", "gpt-2");
        gguf.Add("tokenizer.ggml.tokens", tokenizer.Tokens);
        const int normal = 1, control = 3;
        gguf.Add("tokenizer.ggml.token_type", [.. tokenizer.Tokens.Select((_, id) => id >= tokenizer.ImStartId ? control : normal)]);
        gguf.Add("tokenizer.ggml.merges", tokenizer.Merges);
        gguf.Add("tokenizer.ggml.eos_token_id", (uint)tokenizer.ImEndId);
        gguf.Add("tokenizer.ggml.eot_token_id", (uint)tokenizer.EndOfTextId); // ends a plain story
        gguf.Add("tokenizer.ggml.padding_token_id", (uint)tokenizer.EndOfTextId);
        gguf.Add("tokenizer.ggml.add_bos_token", false);
        gguf.Add("tokenizer.ggml.add_eos_token", false);
        gguf.Add("tokenizer.chat_template", ChatTemplate);

        Matrix("token_embd.weight", model.Embedding);
        for (int i = 0; i < shape.Layers; i++)
        {
            Llama.Layer layer = model.Layers[i];
            Vector($"blk.{i}.attn_norm.weight", layer.AttnNorm);
            Matrix($"blk.{i}.attn_q.weight", layer.Q, shape.Heads);
            Matrix($"blk.{i}.attn_k.weight", layer.K, shape.KvHeads);
            Matrix($"blk.{i}.attn_v.weight", layer.V);
            Matrix($"blk.{i}.attn_output.weight", layer.O);
            Vector($"blk.{i}.ffn_norm.weight", layer.FfnNorm);
            Matrix($"blk.{i}.ffn_gate.weight", layer.Gate);
            Matrix($"blk.{i}.ffn_up.weight", layer.Up);
            Matrix($"blk.{i}.ffn_down.weight", layer.Down);
        }
        Vector("output_norm.weight", model.OutputNorm);
        gguf.Save(path);

        void Vector(string name, Parameter weight) => gguf.AddF32(name, weight.detach().data<float>().ToArray());

        void Matrix(string name, Parameter weight, int rotaryHeads = 0)
        {
            int rows = (int)weight.shape[0], columns = (int)weight.shape[1];
            float[] values = weight.detach().data<float>().ToArray();
            gguf.AddQ8_0(name, rotaryHeads > 0 ? Interleave(values, rows, columns, rotaryHeads) : values, rows, columns);
        }
    }

    /// <summary>Rotary pairs (i, i + d/2) of every head to neighbouring rows (2i, 2i + 1), llama.cpp's order.</summary>
    private static float[] Interleave(float[] values, int rows, int columns, int heads)
    {
        var result = new float[values.Length];
        int d = rows / heads;
        for (int row = 0; row < rows; row++)
        {
            int head = row / d, i = row % d;
            int target = head * d + (i < d / 2 ? 2 * i : 2 * (i - d / 2) + 1);
            Array.Copy(values, row * columns, result, target * columns, columns);
        }
        return result;
    }
}
