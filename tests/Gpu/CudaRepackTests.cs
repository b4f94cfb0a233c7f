using Native.Kernels.Cuda;
using Native.Kernels.Files;
using Native.Kernels.Formats;
using Native.Kernels.Gpu;
using Native.Tests.Gpu.Machine;

namespace Native.Tests.Gpu;

/// <summary>Matrices go up as the file has them, and kernels repack them: bit for bit as <see cref="WeightPacking"/>
/// does, in several orders of warps, whatever a buffer holds; and a row that is not finite is named.</summary>
[Collection(nameof(FakeCuda))] // there is one at a time
public sealed unsafe class CudaRepackTests
{
    /// <summary>Where in a block of a format its halves are.</summary>
    private static readonly Dictionary<TensorType, int[]> s_halves = new()
    {
        [TensorType.F32] = [2], // the upper half has the exponent
        [TensorType.F16] = [0],
        [TensorType.BF16] = [0],
        [TensorType.Q4_0] = [0],
        [TensorType.Q4_1] = [0, 2],
        [TensorType.Q5_0] = [0],
        [TensorType.Q5_1] = [0, 2],
        [TensorType.Q8_0] = [0],
        [TensorType.Q2_K] = [80, 82],
        [TensorType.Q3_K] = [108],
        [TensorType.Q4_K] = [0, 2],
        [TensorType.Q5_K] = [0, 2],
        [TensorType.Q6_K] = [208],
        [TensorType.IQ4_NL] = [0],
        [TensorType.IQ4_XS] = [0],
    };

    public static TheoryData<TensorType> Formats() => [.. WeightLayouts.Formats.Select(format => format.Type)];

    [Theory, MemberData(nameof(Formats))]
    public void RowsOfAnyFormat_AreRepackedByTheDefinition(TensorType type)
    {
        int block = BlockFormat.Of(type).BlockSize;
        foreach ((int rows, int blocks) in ((int, int)[])[(1, 1), (23, 5), (3, 1300 / Math.Min(block, 32))])
        {
            Part part = new("w", type, rows, blocks * block);
            long row = part.View.RowBytes;
            // All rows at once; four at once, of which 23 are no multiple; and a row that no buffer holds.
            foreach (long buffer in (long[])[1 << 20, 4 * row + 1, 2])
                foreach (LaunchOptions order in MachineRun.Orders[..3])
                    using (Loading loading = new(buffer, order)) loading.Check(part);
        }
    }

    [Fact]
    public void PartsOfDifferentFormats_AreRepackedEachToItsRows()
    {
        Part[] parts =
        [
            new("q", TensorType.Q4_0, 5, 512), new("k", TensorType.Q4_K, 3, 512), new("v", TensorType.Q6_K, 4, 512),
            new("a", TensorType.F16, 2, 512), new("b", TensorType.Q8_0, 1, 512), new("c", TensorType.IQ4_XS, 6, 512),
            new("d", TensorType.F32, 3, 512), new("e", TensorType.Q3_K, 7, 512),
        ];
        using Loading loading = new(300); // less than a row of v: memory grows on the way
        CudaMatrix matrix = loading.Check(parts);
        Assert.Equal(
            [WeightLayout.Int4, WeightLayout.Int8By16, WeightLayout.F16, WeightLayout.Int8By32, WeightLayout.F32,
            WeightLayout.Int8By16], matrix.Segments.Select(segment => segment.Layout));
        Assert.Equal([0, 8, 12, 14, 21, 24], matrix.Segments.Select(segment => segment.FirstRow));
    }

    [Theory, MemberData(nameof(Formats))]
    public void TheLeastRowThatIsNotFinite_IsNamed_AndTheNextMatrixIsFine(TensorType type)
    {
        int columns = 2 * BlockFormat.Of(type).BlockSize;
        foreach (int half in s_halves[type])
            foreach (ushort bits in NotFinite(type))
                foreach (LaunchOptions order in MachineRun.Orders[..3])
                {
                    Part first = new("first", type, 6, columns), second = new("second", type, 9, columns);
                    second.SetHalf(4, half, bits); // in its last block
                    second.SetHalf(7, half, bits);
                    using Loading loading = new(2 * first.View.RowBytes, order);
                    string message = Assert.Throws<InvalidDataException>(() => loading.Load(first, second)).Message;
                    Assert.Equal("second: row 4 has weights or scales that are not finite numbers", message);
                    first.SetHalf(0, half, bits);
                    message = Assert.Throws<InvalidDataException>(() => loading.Load(second, first)).Message;
                    Assert.StartsWith("second: row 4 ", message, StringComparison.Ordinal);
                    message = Assert.Throws<InvalidDataException>(() => loading.Load(first, second)).Message;
                    Assert.StartsWith("first: row 0 ", message, StringComparison.Ordinal);
                    loading.Check(new Part("third", type, 3, columns));
                }
    }

    [Fact]
    public void ASmallLoad_IsOneCopyOneLaunchAndOneWait()
    {
        using Loading loading = new(8 << 20);
        Part part = new("w", TensorType.Q4_K, 3, 512);
        loading.Load(part);
        FakeCuda fake = loading.Fake;
        Assert.Equal((1, 1, 1, 1, 1), (fake.Count("cuMemcpyHtoDAsync"), fake.Count("cuLaunchKernelEx"),
            fake.Count("cuMemsetD8Async"), fake.Count("cuMemcpyDtoHAsync"), fake.Count("cuStreamSynchronize")));
        Assert.Equal((part.View.ByteLength, 4L), (fake.BytesUploaded, fake.BytesDownloaded));
        // The integers, the scales, the word of refused rows, and where the file's bytes go.
        Assert.Equal((4, 2), (fake.Count("cuMemAllocAsync"), fake.Count("cuMemHostAlloc")));
        loading.Load(new Part("f", TensorType.F16, 3, 512)); // goes to its place
        Assert.Equal((2, 2, 5, 3), (fake.Count("cuMemcpyHtoDAsync"), fake.Count("cuLaunchKernelEx"),
            fake.Count("cuMemAllocAsync"), fake.Count("cuMemHostAlloc")));
    }

    [Fact]
    public void BuffersTakeTurns_AndAreGivenBackWhenLoadingEnds()
    {
        using Loading loading = new(4096);
        Part part = new("w", TensorType.Q8_0, 500, 256); // of which 15 rows fit a buffer
        long before = loading.Free;
        CudaMatrix matrix = loading.Check(part);
        FakeCuda fake = loading.Fake;
        Assert.Equal((34, 34, 34), (fake.Count("cuMemcpyHtoDAsync"), fake.Count("cuLaunchKernelEx"),
            fake.Count("cuEventRecord")));
        Assert.Equal(part.View.ByteLength, fake.BytesUploaded);
        Assert.InRange(before - loading.Free - matrix.ByteLength, 4096, 4096 * 3 / 2 + 64); // what grows has room
        loading.Upload.Release();
        loading.Upload.Release(); // has nothing to give any more
        Assert.Equal(matrix.ByteLength, before - loading.Free);
        loading.Check(part); // takes them anew
    }

    /// <summary>What a kernel costs. An H200 issues up to 0.9 trillion warp instructions a second (132 multiprocessors,
    /// 4 each at 1.7 GHz), which at a third a weight are 2.7 trillion weights; PCIe at 50 GB/s brings under 0.2
    /// trillion of any format.</summary>
    [Theory]
    [InlineData(TensorType.Q4_0, 0.11)]
    [InlineData(TensorType.Q4_1, 0.11)]
    [InlineData(TensorType.Q5_0, 0.26)]
    [InlineData(TensorType.Q5_1, 0.25)]
    [InlineData(TensorType.Q8_0, 0.16)]
    [InlineData(TensorType.Q2_K, 0.21)]
    [InlineData(TensorType.Q3_K, 0.30)]
    [InlineData(TensorType.Q4_K, 0.19)]
    [InlineData(TensorType.Q5_K, 0.29)]
    [InlineData(TensorType.Q6_K, 0.29)]
    [InlineData(TensorType.IQ4_NL, 0.32)]
    [InlineData(TensorType.IQ4_XS, 0.34)]
    public void AWeightTakesAFractionOfAWarpInstruction(TensorType type, double most)
    {
        const int rows = 8, columns = 4096;
        using Loading loading = new(8 << 20);
        Part part = new("w", type, rows, columns);
        loading.Load(part);
        Counters counters = loading.Fake.Kernels[$"Repack{type}"].Counters;
        double instructions = counters.WarpInstructions / (double)(rows * columns);
        TestContext.Current.TestOutputHelper?.WriteLine($"{type}: {instructions:F3} warp instructions a weight, "
            + $"{counters.Sectors} sectors, at least {counters.LeastSectors}");
        Assert.InRange(instructions, 0.01, most);
    }

    private static ushort[] NotFinite(TensorType type) => type is TensorType.F32 or TensorType.BF16
        ? [0x7f80, 0xff80, 0x7fc1] : [0x7c00, 0xfc00, 0x7e01];

    /// <summary>Random blocks in memory, whose halves are finite: of any sign and size, zeros among them.</summary>
    private sealed class Part
    {
        private readonly byte[] _bytes;
        private readonly BlockFormat _format;

        public Part(string name, TensorType type, int rows, int columns)
        {
            _format = BlockFormat.Of(type);
            _bytes = GC.AllocateArray<byte>(rows * columns / _format.BlockSize * _format.BlockBytes, pinned: true);
            Random random = new(rows * 1000 + columns + (int)type);
            random.NextBytes(_bytes);
            for (int block = 0; block < _bytes.Length; block += _format.BlockBytes)
                foreach (int half in s_halves[type])
                {
                    ref byte upper = ref _bytes[block + half + 1];
                    upper &= 0xbf; // an exponent that is not the greatest
                    if (random.Next(8) == 0) (upper, _bytes[block + half]) = ((byte)(upper & 0x80), 0);
                }
            fixed (byte* start = _bytes)
                View = new TensorView(name, type, rows, columns, (nint)start, _bytes.Length);
        }

        public TensorView View { get; }

        /// <summary>Sets a half in a row's last block.</summary>
        public void SetHalf(int row, int offset, ushort bits) => BitConverter.TryWriteBytes(
            _bytes.AsSpan((int)((row + 1) * View.RowBytes) - _format.BlockBytes + offset), bits);

        /// <summary>Adds what the definition makes of it.</summary>
        public void PackTo(List<byte> weights, List<byte> groups)
        {
            WeightLayouts.Format format = WeightLayouts.Of(View.Type);
            int columns = (int)View.Columns;
            byte[] integers = new byte[WeightLayouts.WeightBytes(format.Layout, columns)];
            byte[] scales = new byte[WeightLayouts.Groups(format.Layout, columns) * 8];
            fixed (byte* from = _bytes, to = integers, group = scales)
                for (int row = 0; row < View.Rows; row++)
                {
                    Assert.True(format.Pack(from + row * View.RowBytes, columns, to, (float*)group));
                    weights.AddRange(integers);
                    groups.AddRange(scales);
                }
        }
    }

    /// <summary>A device that loads matrices; nothing may be left of it.</summary>
    private sealed class Loading : IDisposable
    {
        private readonly List<ulong> _allocations = [];
        private readonly CudaDevice _device;
        private readonly CudaFunctions _functions;

        public Loading(long bufferBytes, LaunchOptions? order = null)
        {
            Fake = new FakeCuda(new FakeCudaOptions { Launch = order ?? new() });
            _device = CudaDevice.Open(0);
            _functions = new CudaFunctions(_device);
            Upload = new CudaUpload(_device, bufferBytes);
        }

        public FakeCuda Fake { get; }

        public CudaUpload Upload { get; }

        public long Free
        {
            get
            {
                _device.Wait();
                return _device.Memory.Free;
            }
        }

        public CudaMatrix Load(params Part[] parts) =>
            CudaMatrix.Load([.. parts.Select(part => part.View)], Upload, _functions, bytes =>
            {
                _allocations.Add(_device.Allocate(bytes, "weights"));
                return _allocations[^1];
            });

        /// <summary>Loads a matrix that must be what the definition makes of its parts.</summary>
        public CudaMatrix Check(params Part[] parts)
        {
            CudaMatrix matrix = Load(parts);
            int part = 0;
            foreach (CudaMatrix.Segment segment in matrix.Segments)
            {
                List<byte> weights = [], groups = [];
                for (long rows = 0; rows < segment.Rows; rows += parts[part++].View.Rows)
                    parts[part].PackTo(weights, groups);
                Assert.Equal(weights, Read(segment.Weights, weights.Count));
                Assert.Equal(groups, Read(segment.Groups, groups.Count));
            }
            Assert.Equal(parts.Length, part);
            return matrix;
        }

        private byte[] Read(ulong address, int bytes)
        {
            if (bytes == 0) return [];
            nint pinned = _device.AllocatePinned(bytes);
            _device.CopyToHost(pinned, address, bytes);
            _device.Wait();
            byte[] read = new Span<byte>((void*)pinned, bytes).ToArray();
            _device.FreePinned(pinned);
            return read;
        }

        public void Dispose()
        {
            Upload.Dispose();
            foreach (ulong address in _allocations) _device.Free(address);
            _device.Wait();
            _functions.Dispose();
            _device.Dispose();
            Exception? caught = Fake.Caught;
            IReadOnlyList<string> leaks = Fake.Leaks;
            Fake.Dispose();
            Assert.Null(caught);
            Assert.Empty(leaks);
        }
    }
}
