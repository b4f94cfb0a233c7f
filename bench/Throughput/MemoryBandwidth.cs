using System.Diagnostics;
using System.Numerics;
using System.Runtime.Intrinsics.X86;
using Native.Kernels.Cpu.Machine;

namespace Native.Bench.Throughput;

/// <summary>How fast this machine's memory is read from its beginning to its end by as many threads as a model computes
/// with.</summary>
internal sealed unsafe class MemoryBandwidth : IDisposable
{
    private const long ChunkBytes = 1 << 20;
    private const int AheadBytes = 4096;

    private readonly NativeHeap _heap = new();
    private readonly WorkerPool _pool;
    private readonly byte* _memory;
    private readonly ulong[] _sums; // what was read is used, so that it can't be left out

    /// <summary>Takes memory that no cache holds, and touches it: pages never written to are all the same
    /// one.</summary>
    public MemoryBandwidth(int threads)
    {
        long free = GC.GetGCMemoryInfo().TotalAvailableMemoryBytes - Environment.WorkingSet;
        Chunks = (int)Math.Clamp(free / 4 / ChunkBytes, 64, 512);
        _pool = new WorkerPool(threads);
        _sums = GC.AllocateArray<ulong>(threads * 16, pinned: true);
        _memory = (byte*)_heap.Allocate(Chunks * ChunkBytes, zeroed: false);
        Reading reading = new() { Memory = _memory };
        _pool.For(Chunks, 1, &Fill, &reading);
    }

    private int Chunks { get; }

    /// <summary>Reads all of it once.</summary>
    /// <returns>Bytes a second.</returns>
    public double Measure()
    {
        fixed (ulong* sums = _sums)
        {
            Reading reading = new() { Memory = _memory, Sums = sums };
            long started = Stopwatch.GetTimestamp();
            _pool.For(Chunks, 1, &Read, &reading);
            return Chunks * ChunkBytes / Stopwatch.GetElapsedTime(started).TotalSeconds;
        }
    }

    public void Dispose()
    {
        _pool.Dispose();
        _heap.Dispose();
    }

    private static void Fill(void* context, int from, int to, int worker)
    {
        byte* memory = ((Reading*)context)->Memory;
        for (int chunk = from; chunk < to; chunk++)
            new Span<byte>(memory + chunk * ChunkBytes, (int)ChunkBytes).Fill((byte)chunk);
    }

    private static void Read(void* context, int from, int to, int worker)
    {
        Reading* reading = (Reading*)context;
        Vector<ulong> a = default, b = default, c = default, d = default;
        for (int chunk = from; chunk < to; chunk++)
        {
            Vector<ulong>* at = (Vector<ulong>*)(reading->Memory + chunk * ChunkBytes);
            for (int i = 0; i < ChunkBytes / sizeof(Vector<ulong>); i += 4)
            {
                // Asked for ahead, as the kernels do: what comes without is a third less.
                if (Sse.IsSupported)
                {
                    for (int line = 0; line < 4 * sizeof(Vector<ulong>); line += 64)
                        Sse.Prefetch0((byte*)(at + i) + AheadBytes + line);
                }
                a += at[i];
                b += at[i + 1];
                c += at[i + 2];
                d += at[i + 3];
            }
        }
        reading->Sums[worker * 16] += Vector.Sum(a + b + c + d);
    }

    private struct Reading
    {
        public byte* Memory;
        public ulong* Sums;
    }
}
