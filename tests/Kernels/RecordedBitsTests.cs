using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using Native.Kernels;
using Native.Kernels.Cpu;
using Native.Kernels.Cpu.Jit;
using Native.Kernels.Models;

namespace Native.Tests.Kernels;

/// <summary>
/// Ids and log-probabilities of every model at hand, bit for bit as version 0.1.0 gave them. A change that alters one
/// bit of an output is seen here. Whoever means to change bits records them again and says why.
/// </summary>
public sealed class RecordedBitsTests
{
    // FNV-1a over 20 scored prompt tokens and 8 generated ones: ids and float32 log-probabilities, keys and values in
    // F16. The order of a sum depends on the widest vectors of the runtime (512, 256, 128 bits), and the scalar
    // products round in an order of their own. The columns: 512 scalar, 512 vectors, 512 with VDPBF16PS, 256 scalar,
    // 256 vectors, 128 scalar. 0 was not recorded: a scalar SmolLM2 takes a minute.
    public static TheoryData<string, ulong[]> Recorded() => new()
    {
        { "stories260K/stories260K-F32.gguf",
            [0x9c99c3a86caa0bf0, 0x8dd94afacb85d89e, 0x8dd94afacb85d89e, 0x3788c19fadd5c111, 0x99898491d2ac84c0, 0x650af8be0ad62048] },
        { "stories260K/stories260K-F16.gguf",
            [0xce79ce3533c10593, 0x8091756a5fc33a60, 0x8091756a5fc33a60, 0x375aa181841b0129, 0x43436d6ddba72877, 0x351cac4fc1b1d0dc] },
        { "stories260K/stories260K-Q8_0.gguf",
            [0xa90f7a03bffb7055, 0xb2198fd00939f1cf, 0xb2198fd00939f1cf, 0x7db11cae14e171e7, 0x6dbaf4ba96d2b082, 0x8c68ee4af95ec8cb] },
        { "stories260K/stories260K-Q4_0.gguf",
            [0x550934ec844bcfd9, 0xb7454851744df81a, 0xb7454851744df81a, 0xd0792bb0ea7a62ba, 0x37d9daa89e95539d, 0xc0e1242a6f480bbe] },
        { "stories260K/hf",
            [0x503e036259581897, 0x7cfdd166f1e5b1b8, 0x7cfdd166f1e5b1b8, 0x85ee804c45508bbb, 0x3f0fa1dba97f1da6, 0x915e63b678e31ec4] },
        { "architectures/llama3-rope/hf",
            [0xfe53e4b765e74ecd, 0xa452ef3be3c446f8, 0xa452ef3be3c446f8, 0x7d09f21ec39e6b9b, 0xb7bf27c0d78263c5, 0x338df1655618efbd] },
        { "architectures/llama3-rope/llama3-rope-F32.gguf",
            [0x520f3d8416e1747a, 0xc45c7a4c7ef4814c, 0xc45c7a4c7ef4814c, 0x482f4ac5707c0c48, 0x0464cd51557989b8, 0xf02f4a59adc6ebe9] },
        { "architectures/llama-linear/hf",
            [0xa3ec4fa361121023, 0xdd5a41ec65310da0, 0x94e2c34d6e3350bc, 0xcc0955c04a4ed9a2, 0x0c3c20449a44efe7, 0x72cdb8a2fd10d865] },
        { "architectures/llama-linear/llama-linear-F32.gguf",
            [0x4849fb3d80f5fde0, 0x3bd731b1f8bdc59e, 0x3bd731b1f8bdc59e, 0xe0ee86be0215fb5c, 0xa37bf2c85eff3d4d, 0x6059a5710c0361ba] },
        { "architectures/mistral/hf",
            [0x315c49f2d64d4a4f, 0x20c929fd8c4e5e0d, 0x20c929fd8c4e5e0d, 0xbdfddddf85c7a5f9, 0x9b83dc486f3a6f3f, 0xadae86cfb35ca031] },
        { "architectures/qwen2/hf",
            [0x3c5e5ab866f4689a, 0x3ff91e66c6077487, 0x54a0a3299cb2b380, 0x9251e53a9f6575ab, 0xca2dc5b45c793303, 0x884209eba5bac6ff] },
        { "architectures/qwen2/qwen2-F32.gguf",
            [0x3c5e5ab866f4689a, 0x3ff91e66c6077487, 0x3ff91e66c6077487, 0x9251e53a9f6575ab, 0xca2dc5b45c793303, 0x884209eba5bac6ff] },
        { "architectures/qwen3/hf",
            [0x043e879dd3533282, 0xbb2ca1d0336fbd02, 0xbb2ca1d0336fbd02, 0x2ffd7bea2c630e9e, 0x2021ca7b9024d770, 0x199bbc447b30eeb4] },
        { "architectures/qwen3/qwen3-F32.gguf",
            [0x043e879dd3533282, 0xbb2ca1d0336fbd02, 0xbb2ca1d0336fbd02, 0x2ffd7bea2c630e9e, 0x2021ca7b9024d770, 0x199bbc447b30eeb4] },
        { "architectures/gemma2/hf",
            [0x75683512481e5728, 0x4c9f5390737c2b60, 0x362876684a0e63f1, 0xc284b5da1af0e316, 0x218535d4e18f3238, 0x9fff93828a2297bb] },
        { "architectures/gemma2/gemma2-F32.gguf",
            [0x75683512481e5728, 0x4c9f5390737c2b60, 0x4c9f5390737c2b60, 0xc284b5da1af0e316, 0x218535d4e18f3238, 0x9fff93828a2297bb] },
        { "architectures/gemma3/hf",
            [0x5c09250b45b16d54, 0xcc6aa7031f2ab394, 0xcc6aa7031f2ab394, 0xcc9b50a4a169eb60, 0x458f68e0b552e19e, 0x1ed53f12b40e3492] },
        { "architectures/gemma3/gemma3-F32.gguf",
            [0x5c09250b45b16d54, 0xcc6aa7031f2ab394, 0xcc6aa7031f2ab394, 0xcc9b50a4a169eb60, 0x458f68e0b552e19e, 0x1ed53f12b40e3492] },
        { "architectures/phi3/hf",
            [0xb35d4fc1a50fa6ff, 0x45a22bbaf75ce513, 0x88e0828634b95c77, 0x54c0468734d4781f, 0x2d79649a0636c6c4, 0xd08729be2a9f89aa] },
        { "architectures/phi3/phi3-F32.gguf",
            [0xb35d4fc1a50fa6ff, 0x45a22bbaf75ce513, 0x45a22bbaf75ce513, 0x54c0468734d4781f, 0x2d79649a0636c6c4, 0xd08729be2a9f89aa] },
        { "SmolLM2-135M-Instruct/SmolLM2-135M-Instruct.Q4_1.gguf",
            [0, 0xf313ef0006cfaad4, 0xf313ef0006cfaad4, 0, 0x422b2bdb5161ffae, 0] },
    };

    [Theory, MemberData(nameof(Recorded))]
    public void EveryModel_GivesTheRecordedBits(string model, ulong[] recorded)
    {
        string path = TestData.Path($"models/{model}");
        Assert.SkipUnless(Sse.IsSupported, "bits were recorded on x86");
        foreach (CpuVariant variant in MicroKernels.Supported)
        {
            ulong expected = recorded[Column(variant)];
            if (expected == 0) continue;
            ulong found = Hash(path, variant);
            Assert.True(expected == found, $"{model}, {variant}: recorded {expected:x16}, found {found:x16}");
        }
    }

    private static int Column(CpuVariant variant)
    {
        bool scalar = variant == CpuVariant.Scalar;
        if (Vector512.IsHardwareAccelerated) return scalar ? 0 : variant == CpuVariant.Avx512Vnni && MachineCode.HasBFloat16 ? 2 : 1;
        return Avx2.IsSupported ? (scalar ? 3 : 4) : 5;
    }

    private static ulong Hash(string path, CpuVariant variant)
    {
        var options = new ModelOptions { Path = path, KvCacheType = DType.F16, MaxModelLength = 64, KvCacheBytes = 8 << 20 };
        using ModelFile file = ModelFile.Open(path);
        using ModelRunner runner = new(file, new CpuBackend(new CpuOptions { Threads = 2, Variant = variant }), options);
        int[] prompt = [.. Enumerable.Range(0, 21).Select(i => ((i * 37) + 5) % Math.Min(runner.Info.VocabularySize, 200))];
        RunnerDriver.Result result = RunnerDriver.Run(runner, [prompt, prompt[..7]], 8, chunk: 16)[0];
        ulong hash = 14695981039346656037;
        void Mix(ReadOnlySpan<byte> bytes)
        {
            foreach (byte b in bytes) hash = unchecked((hash ^ b) * 1099511628211);
        }
        Mix(MemoryMarshal.AsBytes<float>(result.Logprobs));
        Mix(MemoryMarshal.AsBytes<int>(result.Output));
        Mix(MemoryMarshal.AsBytes<float>(result.OutputLogprobs));
        return hash;
    }
}
