using Native.Kernels;
using Native.Scheduling;
using Native.Server.Grpc;
using Native.V1;

namespace Native.Tests.Scheduling;

/// <summary>Whoever follows the events of the prefix cache knows what is in it.</summary>
public sealed class CacheEventsTests
{
    private const int BlockSize = 4;

    private static CancellationToken Token => TestContext.Current.CancellationToken;

    [Theory, InlineData(1), InlineData(2)]
    public void AMirror_HasTheCachesContent_AfterEveryTurnOfAnyWorkload(int stepsInFlight)
    {
        long removed = 0, cleared = 0, stored = 0;
        for (int seed = 0; seed < 100; seed++)
        {
            Random random = new(seed);
            FakeModelRunner runner = new(
                blockCount: random.Next(34, 60), blockSize: BlockSize, stepsInFlight: stepsInFlight);
            using EngineHarness harness = new(runner, new() { Policy = SchedulingPolicy.Fcfs, CacheEvents = true });
            CacheEvents events = harness.Engine.CacheEvents!;
            Mirror mirror = new();
            long next = events.First;
            harness.AfterTurn = () =>
            {
                for (; next < events.Next; next++)
                {
                    Assert.True(events.TryRead(next, out CacheEvent read));
                    mirror.Apply(read);
                    stored += read.Kind == CacheEventKind.Stored ? 1 : 0;
                    removed += read.Kind == CacheEventKind.Removed ? 1 : 0;
                    cleared += read.Kind == CacheEventKind.Cleared ? 1 : 0;
                }
                ulong[] told = [.. harness.Engine.Scheduler.Pool.Cache!.Told().Order()];
                Assert.Equal(told, mirror.Hashes);
                Assert.Equal(told, Content(events).Order());
            };
            if (random.Next(4) == 0) runner.OnExecute = FailOnce(random.Next(1, 30), harness);
            for (int i = random.Next(2, 12); i > 0; i--)
            {
                int[] prompt = EngineHarness.Prompt(random.Next(1, 60), seed: random.Next(3));
                Reading reading = harness.Submit(new GenerationRequest
                {
                    Ids = prompt,
                    Sampling = EngineHarness.Greedy(random.Next(1, 40)) with { N = random.Next(1, 3) },
                    CacheSalt = random.Next(3) == 0 ? "salt" : null,
                });
                for (int turns = random.Next(6); turns > 0; turns--) harness.Turn();
                if (random.Next(5) == 0) reading.Stream.Cancel();
            }
            harness.RunToEnd();
            mirror.AssertChains();
        }
        Assert.True(stored > 1000 && removed > 1000 && cleared > 5, $"{stored} stored, {removed} removed, {cleared}");
    }

    [Fact]
    public void WithASalt_NothingIsTold_AndWithoutEvents_ThereAreNone()
    {
        using EngineHarness harness = new(options: new() { Policy = SchedulingPolicy.Fcfs, CacheEvents = true });
        CacheEvents events = harness.Engine.CacheEvents!;
        harness.Submit(new GenerationRequest
        {
            Ids = EngineHarness.Prompt(40),
            Sampling = EngineHarness.Greedy(8),
            CacheSalt = "secret",
        });
        harness.RunToEnd();
        Assert.True(harness.Engine.Metrics.CachedBlocks > 9);
        Assert.Equal(events.First, events.Next);
        Assert.Empty(Content(events));
        using EngineHarness none = new();
        Assert.Null(none.Engine.CacheEvents);
        List<string> errors = [];
        new EngineOptions { CacheEvents = true, PrefixCaching = false }.Validate(errors);
        Assert.Contains("CacheEvents needs PrefixCaching", Assert.Single(errors));
    }

    [Fact]
    public async Task SlowReaders_BeginAnew_AndEndWithTheSameContent()
    {
        const int Blocks = 32;
        CacheEvents events = new(Blocks, BlockSize, first: 1000, least: 64);
        using CancellationTokenSource end = CancellationTokenSource.CreateLinkedTokenSource(Token);
        Mirror[] mirrors = [.. Enumerable.Range(0, 4).Select(i => new Mirror { Slow = i })];
        Task[] readers = [.. mirrors.Select((mirror, i) => Task.Run(() =>
            KvEventStream.Follow(events, i == 0 ? null : 1000UL, mirror.Take, end.Token), Token))];

        Random random = new(1);
        bool[] present = new bool[Blocks];
        HashSet<ulong> expected = [];
        ulong[] hashes = new ulong[Blocks];
        ulong number = 1;
        for (int i = 0; i < 200_000; i++)
        {
            int block = random.Next(Blocks);
            if (i % 5000 == 4999)
            {
                events.Cleared();
                Array.Clear(present);
                expected.Clear();
            }
            else if (present[block])
            {
                events.Removed(block);
                expected.Remove(hashes[block]);
                present[block] = false;
            }
            else
            {
                hashes[block] = number++;
                events.Stored(block, hashes[block], number % 3 == 0 ? null : Mirror.ParentOf(hashes[block]),
                    Mirror.TokensOf(hashes[block]));
                expected.Add(hashes[block]);
                present[block] = true;
            }
            if (i % 500 == 0) await Task.Delay(1, Token); // readers get processors too
        }
        foreach (Mirror mirror in mirrors)
        {
            for (int i = 0; i < 1000 && mirror.Next < events.Next; i++) await Task.Delay(10, Token);
            Assert.Equal(events.Next, mirror.Next);
            Assert.Equal(expected.Order(), mirror.Hashes);
            Assert.Empty(mirror.Faults);
        }
        Assert.True(mirrors[^1].Lost > 1000, $"the slowest lost {mirrors[^1].Lost}");
        Assert.True(mirrors[^1].Snapshots > 1);
        end.Cancel();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => Task.WhenAll(readers));
    }

    [Fact]
    public async Task WhatIsRead_IsWhole_WhileTheWriterIsThere()
    {
        const int Blocks = 4, Size = 512; // a ring of four events, each long in the writing
        CacheEvents events = new(Blocks, Size, first: 0, least: Blocks);
        using CancellationTokenSource end = new(TimeSpan.FromSeconds(1.5));
        Task writer = Task.Run(() =>
        {
            int[] tokens = new int[Size];
            for (ulong hash = 1; !end.IsCancellationRequested; hash++)
            {
                Array.Fill(tokens, (int)hash);
                int block = (int)(hash % Blocks);
                events.Removed(block);
                events.Stored(block, hash, Mirror.ParentOf(hash), tokens);
            }
        }, Token);
        int whole = 0, forgotten = 0;
        while (!end.IsCancellationRequested)
        {
            for (long number = Math.Max(0, events.Next - Blocks); number < events.Next; number++)
            {
                if (!events.TryRead(number, out CacheEvent read)) forgotten++;
                else if (read.Kind == CacheEventKind.Stored) AssertWhole(read);
            }
            for (int block = 0; block < Blocks; block++)
                if (events.TryReadBlock(block, out CacheEvent read)) AssertWhole(read);
        }
        await writer;
        Assert.True(whole > 1000 && forgotten > 100, $"{whole} read, {forgotten} forgotten");

        void AssertWhole(in CacheEvent read)
        {
            whole++;
            int token = (int)read.Hash;
            Assert.Equal(Mirror.ParentOf(read.Hash), read.Parent);
            Assert.True(read.Tokens.All(other => other == token), $"the block {read.Hash} is torn");
        }
    }

    [Fact]
    public void Telling_AllocatesNothing()
    {
        CacheEvents events = new(8, BlockSize, first: 0, least: 64);
        int[] tokens = [1, 2, 3, 4];
        Assert.Equal(0, Allocations.Of(() =>
        {
            for (int i = 0; i < 100; i++) Tell();
        }));

        void Tell()
        {
            events.Stored(0, 1, null, tokens);
            events.Stored(1, 2, 1, tokens);
            events.Removed(1);
            events.Cleared();
        }
    }

    private static FakeModelRunner.ExecuteHook FailOnce(int step, EngineHarness harness) => (in Batch _) =>
    {
        if (--step != 0) return;
        // Blocks that don't add up: everything starts anew.
        harness.Engine.Scheduler.Pool.Share(harness.Engine.Scheduler.Live.Running > 0
            ? (harness.Engine.Scheduler.Live.Decoding.First ?? harness.Engine.Scheduler.Live.Prefilling.First)!
                .BlockTable[0] : 0);
        throw new InvalidOperationException("the step fails");
    };

    private static IEnumerable<ulong> Content(CacheEvents events)
    {
        for (int block = 0; block < events.BlockCount; block++)
            if (events.TryReadBlock(block, out CacheEvent read)) yield return read.Hash;
    }

    /// <summary>What a router knows by events alone.</summary>
    private sealed class Mirror
    {
        private readonly Dictionary<ulong, (ulong? Parent, int[] Tokens)> _blocks = [];
        private readonly Random _random = new(7);
        private long _next;

        public int Slow { get; init; }

        public long Lost { get; private set; }

        public int Snapshots { get; private set; }

        public List<string> Faults { get; } = [];

        /// <summary>The event it waits for.</summary>
        public long Next => Volatile.Read(ref _next);

        public ulong[] Hashes => [.. _blocks.Keys.Order()];

        public static ulong ParentOf(ulong hash) => hash * 31;

        public static int[] TokensOf(ulong hash) => [.. Enumerable.Repeat((int)hash, BlockSize)];

        public void Apply(in CacheEvent e)
        {
            if (e.Kind == CacheEventKind.Stored) Assert.True(_blocks.TryAdd(e.Hash, (e.Parent, e.Tokens)));
            else if (e.Kind == CacheEventKind.Removed) Assert.True(_blocks.Remove(e.Hash));
            else _blocks.Clear();
        }

        /// <summary>Takes a batch as a client does.</summary>
        public async Task Take(KvEventBatch batch)
        {
            if (Slow > 0 && _random.Next(4 - Slow + 1) == 0) await Task.Delay(Slow * 3, Token);
            if (batch.IsSnapshot && batch.Events[0].AllBlocksCleared is not null) Snapshots++;
            else if (!batch.IsSnapshot && _next != 0 && Snapshots > 0 && batch.SequenceNumber != (ulong)_next)
                Faults.Add($"{batch.SequenceNumber} came where {_next} was next");
            Lost += (long)batch.Lost;
            foreach (KvEvent e in batch.Events)
            {
                if (e.AllBlocksCleared is not null) _blocks.Clear();
                else if (e.BlockRemoved is { } removed) _blocks.Remove(removed.BlockHashes[0]);
                else if (e.BlockStored is { } stored)
                {
                    ulong hash = stored.BlockHashes[0];
                    bool whole = stored.TokenIds.SequenceEqual(TokensOf(hash))
                        && (!stored.HasParentBlockHash || stored.ParentBlockHash == ParentOf(hash));
                    if (!whole) Faults.Add($"the block {hash} is torn");
                    _blocks[hash] = (stored.HasParentBlockHash ? stored.ParentBlockHash : null, [.. stored.TokenIds]);
                }
            }
            Volatile.Write(ref _next, (long)batch.SequenceNumber + (batch.IsSnapshot ? 0 : batch.Events.Count));
        }

        /// <summary>Every block's hash is that of its tokens after its parent's, which is there too.</summary>
        public void AssertChains()
        {
            foreach ((ulong hash, (ulong? parent, int[] tokens)) in _blocks)
            {
                Assert.True(parent is null || _blocks.ContainsKey(parent.Value));
                ulong before = parent ?? PrefixCache.ChainOf(UInt128.Zero);
                Assert.Equal(hash, PrefixCache.ChainOf(before, tokens));
            }
        }
    }
}
