using System.Runtime.InteropServices;

namespace Native.Tests.Gpu.Machine;

internal readonly record struct Dim3(int X, int Y = 1, int Z = 1)
{
    public int Count => X * Y * Z;
}

/// <summary>In which order what may happen in any order does.</summary>
internal enum Order
{
    Ascending,
    Descending,

    /// <summary>By the seed: blocks, warps, for how long each runs, and when copies land.</summary>
    Random,
}

/// <summary>How the machine executes a launch.</summary>
internal sealed record LaunchOptions
{
    public Order Order { get; init; }

    public int Seed { get; init; }

    /// <summary>Blocks that run side by side; more than one has them take turns, as kernels with locks between blocks
    /// need.</summary>
    public int ResidentBlocks { get; init; } = 4;

    /// <summary>What %nsmid says.</summary>
    public int Multiprocessors { get; init; } = 132;

    /// <summary>Instructions of a warp, after which another may run.</summary>
    public int Quantum { get; init; } = 20_000;

    /// <summary>Turns in which every warp only waits, after which the launch counts as dead.</summary>
    public int Patience { get; init; } = 300;

    /// <summary>Turns that a warp may run for, each of <see cref="Quantum"/> instructions.</summary>
    public int MostTurns { get; init; } = 10_000;

    /// <summary>Most shared memory of a block; 227 KB as on sm_90.</summary>
    public int MaxShared { get; init; } = 227 * 1024;
}

/// <summary>What a launch did, exactly.</summary>
internal sealed record Counters
{
    public long WarpInstructions { get; set; }

    /// <summary>Instructions of lanes.</summary>
    public long LaneInstructions { get; set; }

    /// <summary>Sectors of 32 bytes of global memory, and the least that hold the bytes.</summary>
    public long Sectors { get; set; }

    public long LeastSectors { get; set; }

    /// <summary>Passes over the banks of shared memory, and the least.</summary>
    public long Wavefronts { get; set; }

    public long LeastWavefronts { get; set; }

    public long MatrixOperations { get; set; }

    /// <summary>Barriers of blocks completed.</summary>
    public long Barriers { get; set; }

    public long AsyncBytes { get; set; }

    /// <summary>Most bytes of a block on their way at once.</summary>
    public long MostBytesInFlight { get; set; }

    /// <summary>Of two launches together.</summary>
    public Counters Plus(Counters other) => new()
    {
        WarpInstructions = WarpInstructions + other.WarpInstructions,
        LaneInstructions = LaneInstructions + other.LaneInstructions,
        Sectors = Sectors + other.Sectors,
        LeastSectors = LeastSectors + other.LeastSectors,
        Wavefronts = Wavefronts + other.Wavefronts,
        LeastWavefronts = LeastWavefronts + other.LeastWavefronts,
        MatrixOperations = MatrixOperations + other.MatrixOperations,
        Barriers = Barriers + other.Barriers,
        AsyncBytes = AsyncBytes + other.AsyncBytes,
        MostBytesInFlight = Math.Max(MostBytesInFlight, other.MostBytesInFlight),
    };
}

/// <summary>Traffic of one instruction.</summary>
internal sealed record OpTraffic(
    string Instruction, PtxLocation Location, long Executed, long Sectors, long LeastSectors, long Wavefronts,
    long LeastWavefronts);

/// <summary>Fills the special registers of a warp that are the same in every block.</summary>
internal unsafe delegate void SetSpecials(Launch launch, int warp, byte* registers);

/// <summary>A grid of blocks that executes a kernel.</summary>
internal sealed unsafe class Launch : IDisposable
{
    private readonly Random _random;
    private uint _time;

    private Launch(
        Kernel kernel, DeviceMemory memory, Dim3 grid, Dim3 block, int dynamicShared, ReadOnlySpan<byte> parameters,
        LaunchOptions options)
    {
        Kernel = kernel;
        Memory = memory;
        GridSize = grid;
        BlockSize = block;
        DynamicShared = dynamicShared;
        Options = options;
        _random = new Random(options.Seed);
        Parameters = new MemoryRange("the parameters", parameters.Length, stamped: false) { IsReadOnly = true };
        parameters.CopyTo(new Span<byte>(Parameters.Data, parameters.Length));
        Parameters.Fill(0, parameters.Length);
        _time = memory.Time + 1;
        Limit = (ulong)_time << 32;
    }

    public Kernel Kernel { get; }

    public DeviceMemory Memory { get; }

    public MemoryRange Parameters { get; }

    public Dim3 GridSize { get; }

    public Dim3 BlockSize { get; }

    public int Blocks => GridSize.Count;

    public int DynamicShared { get; }

    public LaunchOptions Options { get; }

    public Counters Counters { get; } = new();

    public Fences Fences { get; } = new();

    /// <summary>Counts what orders: the time in stamps.</summary>
    public uint Time => _time;

    /// <summary>Stamps below are of earlier launches.</summary>
    public ulong Limit { get; }

    public bool IsDescending =>
        Options.Order == Order.Descending || (Options.Order == Order.Random && _random.Next(2) == 0);

    /// <summary>Raised by whatever changes what a waiting warp may see.</summary>
    public long Progress { get; set; }

    /// <summary>Executes a launch to its end.</summary>
    /// <exception cref="GpuFault">The kernel did something wrong.</exception>
    public static Counters Run(
        Kernel kernel, DeviceMemory memory, Dim3 grid, Dim3 block, int dynamicShared, ReadOnlySpan<byte> parameters,
        LaunchOptions? options = null)
    {
        using Launch launch = new(kernel, memory, grid, block, dynamicShared, parameters, options ?? new());
        launch.Check();
        for (int i = 0; i < kernel.OpCount; i++)
        {
            Op* op = kernel.Ops + i;
            op->Executed = op->Lanes = op->Sectors = op->LeastSectors = op->Wavefronts = op->LeastWavefronts = 0;
        }
        launch.Run();
        launch.Sum();
        return launch.Counters;
    }

    /// <summary>The instructions of a kernel's last launch that touched memory, the busiest first.</summary>
    public static IReadOnlyList<OpTraffic> TrafficOf(Kernel kernel)
    {
        List<OpTraffic> all = [];
        for (int i = 0; i < kernel.OpCount; i++)
        {
            Op* op = kernel.Ops + i;
            if (op->Sectors + op->Wavefronts == 0) continue;
            all.Add(new(kernel.Function.Instructions[op->Source].ToString(), kernel.LocationOf(op), op->Executed,
                op->Sectors, op->LeastSectors, op->Wavefronts, op->LeastWavefronts));
        }
        return [.. all.OrderByDescending(traffic => traffic.Sectors + traffic.Wavefronts)];
    }

    /// <summary>One more instant: what comes after is told apart from what came before.</summary>
    public ulong Advance() => (ulong)++_time << 32;

    public int Next(int below) => _random.Next(below);

    private void Check()
    {
        void Refuse(string what) => throw new GpuFault(FaultKind.Trap, what, Kernel.Name, default, null);
        if (BlockSize.Count < 1 || GridSize.Count < 1) Refuse($"a grid of {GridSize} blocks of {BlockSize}");
        if (BlockSize.Count > Kernel.Function.MaxThreads)
            Refuse($"{BlockSize.Count} threads a block, where .maxntid allows {Kernel.Function.MaxThreads}");
        if (Kernel.SharedBytes + DynamicShared > Options.MaxShared)
            Refuse($"{Kernel.SharedBytes + DynamicShared} bytes of shared memory, of {Options.MaxShared}");
        PtxVariable? last = Kernel.Function.Parameters.LastOrDefault();
        long needed = last is null ? 0 : last.Offset + last.Bytes;
        if (Parameters.Bytes != needed) Refuse($"{Parameters.Bytes} bytes of parameters, where it takes {needed}");
    }

    private void Run()
    {
        int[] order = [.. Enumerable.Range(0, Blocks)];
        if (Options.Order == Order.Descending) Array.Reverse(order);
        if (Options.Order == Order.Random) _random.Shuffle(order);
        Queue<int> waiting = new(order);
        List<Block> resident = [];
        int places = Math.Max(1, Options.ResidentBlocks), idle = 0;
        try
        {
            while (waiting.Count > 0 || resident.Count > 0)
            {
                while (waiting.Count > 0 && resident.Count < places)
                    resident.Add(new Block(this, waiting.Dequeue()));
                long before = Progress;
                bool blocked = true;
                foreach (Block block in resident)
                {
                    blocked &= !block.Turn();
                    if (!block.HasExited) continue;
                    block.CheckCopies();
                    Progress++;
                }
                resident.RemoveAll(Ended);
                if (resident.Count == 0) continue;
                idle = Progress == before ? idle + 1 : 0;
                if (blocked && Progress == before) throw resident[0].WhyStuck();
                if (idle > Options.Patience)
                    throw new GpuFault(FaultKind.Deadlock, $"no warp gets on: {resident.Count} blocks run, "
                        + $"{waiting.Count} wait for a place{resident[0].WhatIsAwaited()}", Kernel.Name,
                        resident[0].LocationOfLast, (resident[0].Index, 0));
            }
        }
        finally
        {
            foreach (Block block in resident) block.Dispose();
        }
    }

    private static bool Ended(Block block)
    {
        if (!block.HasExited) return false;
        block.Dispose();
        return true;
    }

    private void Sum()
    {
        for (int i = 0; i < Kernel.OpCount; i++)
        {
            Op* op = Kernel.Ops + i;
            Counters.Sectors += op->Sectors;
            Counters.LeastSectors += op->LeastSectors;
            Counters.Wavefronts += op->Wavefronts;
            Counters.LeastWavefronts += op->LeastWavefronts;
            if (!op->IsCounted) continue;
            Counters.WarpInstructions += op->Executed;
            Counters.LaneInstructions += op->Lanes;
        }
    }

    // Registers and shared memory of blocks that have ended serve those that come.

    private readonly Stack<nint> _registers = [];
    private readonly List<byte[]> _templates = [];
    private readonly Stack<MemoryRange> _shared = [];

    /// <summary>A warp's registers before its first instruction.</summary>
    /// <param name="warp">Its number in its block.</param>
    /// <param name="setSpecials">Fills the special registers of a warp that is the first of its number.</param>
    public byte* RegistersOf(int warp, SetSpecials setSpecials)
    {
        int bytes = Kernel.Template.Length;
        byte* registers = _registers.TryPop(out nint free)
            ? (byte*)free : (byte*)NativeMemory.AlignedAlloc((nuint)bytes + 64, 64);
        Span<byte> all = new(registers, bytes);
        if (warp < _templates.Count)
        {
            _templates[warp].CopyTo(all);
            return registers;
        }
        Kernel.Template.CopyTo(all);
        setSpecials(this, warp, registers);
        _templates.Add(all.ToArray());
        return registers;
    }

    public void Return(nint registers) => _registers.Push(registers);

    /// <summary>A block's shared memory, which nobody has written.</summary>
    public MemoryRange TakeShared(int warps)
    {
        if (_shared.TryPop(out MemoryRange? shared)) shared.Forget(Advance());
        else
            shared = new MemoryRange("shared memory", Kernel.SharedExtent + DynamicShared, stamped: true,
                Kernel.HasPartialBarriers ? warps : 0)
            { IsOfBlock = true, Variables = Kernel.SharedVariables };
        foreach (int gap in Kernel.SharedGaps) shared.Leave(gap, Kernel.GapBytes);
        return shared;
    }

    public void Return(MemoryRange shared) => _shared.Push(shared);

    public void Dispose()
    {
        foreach (nint registers in _registers) NativeMemory.AlignedFree((void*)registers);
        foreach (MemoryRange range in _shared) range.Dispose();
        Parameters.Dispose();
        Memory.Time = _time;
    }
}
