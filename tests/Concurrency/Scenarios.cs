using Native.Scheduling;
using Native.Scheduling.Slo;

namespace Native.Tests.Concurrency;

/// <summary>Small programs of several threads over the scheduler's crossings. They are compiled once more with the
/// scheduler's sources for the model, see <see cref="ModelledSources"/>.</summary>
internal static class Scenarios
{
    /// <summary>Two producers find the ring full, wait, and are served in their order.</summary>
    public static void InboxHandsOverEachItemOnce(World world)
    {
        Inbox<News> inbox = new(2);
        for (int p = 0; p < 2; p++)
        {
            int producer = p;
            world.Start(() =>
            {
                for (int i = 1; i <= 2; i++)
                {
                    News item = new() { Producer = producer };
                    item.Value = i;
                    while (!inbox.TryEnqueue(item)) world.Yield();
                }
            });
        }
        int[] next = [1, 1];
        for (int taken = 0; taken < 4;)
        {
            if (!inbox.TryDequeue(out News? item))
            {
                world.Yield();
                continue;
            }
            world.Check(item is not null, "a turn that says full is a cell that is full");
            world.Check(item!.Value == next[item.Producer]++, "a producer's items come in its order, written");
            taken++;
        }
        world.JoinAll();
        world.Check(inbox.IsEmpty && !inbox.TryDequeue(out _), "nothing is left");
    }

    /// <summary>Three producers, room for two: who is refused was refused by a full ring, and what was taken is
    /// there.</summary>
    public static void InboxRefusesWhenFull(World world)
    {
        Inbox<News> inbox = new(2);
        int[] taken = new int[3];
        for (int p = 0; p < 3; p++)
        {
            int producer = p;
            world.Start(() => taken[producer] = inbox.TryEnqueue(new News { Producer = producer }) ? 1 : 0);
        }
        world.JoinAll();
        world.Check(taken.Sum() == 2, "two of three find room");
        bool[] seen = new bool[3];
        while (inbox.TryDequeue(out News? item))
        {
            world.Check(taken[item.Producer] == 1 && !seen[item.Producer], "what was taken comes once");
            seen[item.Producer] = true;
        }
        world.Check(seen.Count(s => s) == 2, "what was taken comes");
        world.Check(inbox.TryEnqueue(new News()), "there is room again");
    }

    /// <summary>Two threads have news of one stream and of their own; the taker misses none.</summary>
    public static void SignalStackLosesNoNews(World world)
    {
        using Engine engine = NewEngine(world, startThread: false);
        TokenStream[] streams = [.. Enumerable.Range(0, 3).Select(_ => Submit(world, engine)!)];
        SignalStack stack = new();
        News[] news = [new News(), new News(), new News(), new News()];
        for (int p = 0; p < 2; p++)
        {
            int pusher = p;
            world.Start(() =>
            {
                news[pusher].Value = 1;
                stack.Push(streams[pusher]);
                news[2 + pusher].Value = 1;
                stack.Push(streams[2]);
            });
        }
        bool[] seen = new bool[4];
        void Take()
        {
            TokenStream? next;
            for (TokenStream? stream = stack.TakeAll(); stream is not null; stream = next)
            {
                next = SignalStack.Unlink(stream);
                int at = Array.IndexOf(streams, stream);
                if (at < 2) seen[at] |= news[at].Value == 1;
                else for (int i = 2; i < 4; i++) seen[i] |= news[i].Value == 1;
            }
        }
        for (int i = 0; i < 3; i++)
        {
            world.Yield();
            Take();
        }
        world.JoinAll();
        Take();
        world.Check(stack.IsEmpty, "all were taken");
        world.Check(seen.All(s => s), "news is seen now, or the stream is pushed again");
    }

    /// <summary>A reader follows a log that grows, to an end that comes with a token or alone.</summary>
    public static void TokenLogIsReadInOrder(World world)
    {
        const int tokens = 17; // one more than the first array that grows has room for
        TokenLog log = new(0, 0);
        world.Start(() =>
        {
            for (int i = 0; i < tokens; i++)
            {
                log.Append(i, 0, []);
                if (i is 0 or 15 or 16) log.Publish();
            }
            log.Publish(FinishReason.Cancelled);
        });
        int read = 0, expected = 0;
        bool finished = false;
        while (!finished)
        {
            if (!log.TryRead(0, ref read, ref finished, out TokenEvent e))
            {
                world.Yield();
                continue;
            }
            if (e.Token >= 0) world.Check(e.Token == expected++, "tokens come in order");
            world.Check(e.Finish == (finished ? FinishReason.Cancelled : FinishReason.None), "the end comes last");
        }
        world.JoinAll();
        world.Check(expected == tokens && !log.HasEvent(read, finished), "every token came, and the end once");
    }

    /// <summary>One writes, one reads, with room for two.</summary>
    public static void SpscRingHandsOverEachItemOnce(World world)
    {
        SpscRing<int> ring = new(2);
        world.Start(() =>
        {
            for (int i = 1; i <= 4; i++)
                while (!ring.TryWrite(i)) world.Yield();
        });
        for (int expected = 1; expected <= 4;)
        {
            if (ring.TryRead(out int item)) world.Check(item == expected++, "items come once, in order, written");
            else world.Yield();
        }
        world.JoinAll();
        world.Check(!ring.TryRead(out _), "nothing is left");
    }

    /// <summary>Who reads a value while it is written reads it whole, and never an older one than before.</summary>
    public static void SeqLockIsReadWhole(World world)
    {
        SeqLock<Both> shown = new(default);
        world.Start(() =>
        {
            shown.Write(new Both(1, 1));
            shown.Write(new Both(2, 2));
        });
        long last = 0;
        for (int i = 0; i < 3; i++)
        {
            Both seen = shown.Read();
            world.Check(seen.First == seen.Second && seen.First >= last, "a value is read whole, in its order");
            last = seen.First;
        }
        world.JoinAll();
        world.Check(shown.Read() == new Both(2, 2), "the last value stays");
    }

    /// <summary>Who reads sums while pairs close sees each event once.</summary>
    public static void BudgetSumsAreOfOneTime(World world)
    {
        ObjectiveBudget budget = NewBudget();
        budget.Add(1, 1);
        world.Start(() =>
        {
            budget.Advance(1001);
            budget.Add(1, 1);
            budget.Advance(1002);
        });
        for (int i = 0; i < 3; i++)
        {
            BudgetCounts counts = budget.Read(BudgetWindow.FiveMinutes);
            world.Check(counts.Good == counts.Bad && counts.Good is 1 or 2, "sums and the open pair are of one time");
        }
        world.JoinAll();
        world.Check(budget.Read(BudgetWindow.FiveMinutes) == new BudgetCounts(2, 2), "both are counted");
    }

    /// <summary>After a gap longer than the ring everything is forgotten at once, and no pair is taken for the one
    /// whose place it has.</summary>
    public static void BudgetForgetsAtOnce(World world)
    {
        ObjectiveBudget budget = NewBudget();
        budget.Add(1, 1);
        budget.Advance(1001);
        budget.Add(2, 2);
        const int ring = (7 * 24 * 360) + 1;
        world.Start(() =>
        {
            budget.Advance(1000 + (2 * ring));
            budget.Add(5, 5);
        });
        for (int i = 0; i < 2; i++)
        {
            BudgetCounts counts = budget.Read(BudgetWindow.FiveMinutes);
            world.Check(counts.Good == counts.Bad && counts.Good is 3 or 0 or 5, "sums are of one time");
            world.Check(ObjectiveBudget.GoodOf(budget.ReadPair(1000)) is 1 or 0, "a pair is its own number's");
        }
        world.JoinAll();
        world.Check(budget.Read(BudgetWindow.FiveMinutes) == new BudgetCounts(5, 5), "what came last is counted");
    }

    /// <summary>A reader of the cache's events gets each as it was written, or is told that the ring has forgotten
    /// it.</summary>
    public static void CacheEventsAreReadWhole(World world)
    {
        CacheEvents events = new(blockCount: 2, blockSize: 2, first: 5, least: 2);
        world.Start(() =>
        {
            events.Stored(0, 1, null, [1, 1]);
            events.Stored(1, 2, 1, [2, 2]);
            events.Removed(0);
            events.Stored(0, 3, 2, [3, 3]);
        });
        for (long next = 5; next < 9; next++)
        {
            while (next >= events.Next) world.Yield();
            if (events.TryRead(next, out CacheEvent read)) CheckEvent(world, next, read);
            else world.Check(events.Next >= next + events.Capacity, "only what had to make room is forgotten");
        }
        world.JoinAll();
        for (long last = 7; last < 9; last++)
        {
            world.Check(events.TryRead(last, out CacheEvent read), "the last are there");
            CheckEvent(world, last, read);
        }
        world.Check(!events.TryRead(6, out _), "what made room is gone");
    }

    /// <summary>Who reads the cache's content, and then the events from the number on that he noted before, knows what
    /// is there.</summary>
    public static void CacheContentIsCaughtUp(World world)
    {
        CacheEvents events = new(blockCount: 2, blockSize: 2, first: 5, least: 8);
        events.Stored(0, 1, null, [1, 1]);
        world.Start(() =>
        {
            events.Stored(1, 2, 1, [2, 2]);
            events.Removed(0);
            events.Stored(0, 3, 2, [3, 3]);
        });
        long next = events.Next;
        HashSet<ulong> known = ReadContent(world, events);
        for (; next < 9; next++)
        {
            while (next >= events.Next) world.Yield();
            world.Check(events.TryRead(next, out CacheEvent read), "the ring has room for all");
            if (read.Kind == CacheEventKind.Stored) known.Add(read.Hash);
            else known.Remove(read.Hash);
        }
        world.Check(known.SetEquals([2, 3]), "who has caught up knows what is there");
        world.JoinAll();
        world.Check(ReadContent(world, events).SetEquals([2, 3]), "it is there");
    }

    /// <summary>A reader that has seen that the cache was cleared finds nothing of before.</summary>
    public static void CacheContentIsForgottenAtOnce(World world)
    {
        CacheEvents events = new(blockCount: 2, blockSize: 2, first: 5, least: 4);
        events.Stored(1, 1, null, [1, 1]);
        world.Start(() =>
        {
            events.Removed(0); // it was never told
            events.Cleared();
        });
        long next = events.Next;
        HashSet<ulong> known = ReadContent(world, events);
        world.Check(next == 6 || known.Count == 0, "the content is not older than the number");
        while (events.Next < 7) world.Yield();
        world.Check(ReadContent(world, events).Count == 0, "nothing is there");
        world.Check(events.TryRead(6, out CacheEvent read) && read.Kind == CacheEventKind.Cleared, "it was cleared");
        world.JoinAll();
        world.Check(events.Next == 7, "a block that was not told is not taken back");
    }

    /// <summary>What threads count up and down together adds up.</summary>
    public static void SharesAddUp(World world)
    {
        Share share = new Tenant(new TenantSpec { Name = "a" }, isNamed: true).Shares[0];
        for (int i = 0; i < 2; i++)
        {
            world.Start(() =>
            {
                share.Queue(new QueuedPrompt(1, 9, 8));
                share.Queue(new QueuedPrompt(1, 2, 1));
                share.Dequeue(new QueuedPrompt(1, 2, 1));
            });
        }
        share.Charge(3, 0);
        world.Check(share.QueuedTokens is 0 or 1 or 2 or 8 or 9 or 10 or 16 or 17 or 18, "a count is a sum");
        world.JoinAll();
        world.Check((share.QueuedTokens, share.QueuedRequests) == (16, 2), "what was not taken back is counted");
        QueuedPrompt seven = new(1, 7, 0);
        world.Check((share.QueuedBefore(seven), share.QueuedBefore(seven with { Length = 8 })) == (0, 16), "by length");
        world.Check(share.QueuedBefore(seven with { Rank = 2 }) == 16, "and by rank");
        world.Check((share.RequestsUpTo(0), share.RequestsUpTo(1)) == (0, 2), "so are requests");
        world.Check((share.Tokens, share.Served) == (3, 3 / share.Weight), "it got what it was charged");
    }

    /// <summary>Of what is there for one of two, one gets it; what is given back and spent beside adds up.</summary>
    public static void RatesAddUp(World world)
    {
        RateLimit limit = new(perMinute: 60);
        bool[] taken = new bool[2];
        for (int i = 0; i < 2; i++)
        {
            int taker = i;
            world.Start(() => taken[taker] = limit.TryTake(40, 0, out _));
        }
        world.JoinAll();
        world.Check(taken[0] != taken[1], "one of two gets it");
        world.Start(() => limit.Return(40));
        world.Start(() => limit.Spend(15, 0));
        limit.Spend(5, 0);
        world.JoinAll();
        world.Check(limit.TryTake(40, 0, out _) && !limit.TryTake(1, 0, out _), "what is left is there, and no more");
    }

    /// <summary>A reader that sleeps is woken by whoever publishes.</summary>
    public static void ReaderIsWoken(World world)
    {
        using Engine engine = NewEngine(world, startThread: false);
        TokenStream stream = Submit(world, engine, tokens: 2)!;
        world.Start(() =>
        {
            while (engine.Turn()) world.Yield();
        });
        world.Check(ReadToEnd(world, stream) == (2, FinishReason.Length), "all tokens came");
        world.JoinAll();
        CheckWhole(world, engine);
    }

    /// <summary>An engine that sleeps is woken by each submission.</summary>
    public static void EngineIsWokenBySubmit(World world)
    {
        using Engine engine = NewEngine(world, startThread: true);
        for (int i = 0; i < 2; i++)
            world.Check(ReadToEnd(world, Submit(world, engine)!) == (1, FinishReason.Length), "all tokens came");
        engine.Dispose();
        CheckWhole(world, engine);
    }

    /// <summary>A request that is cancelled while it completes ends once, one way or the other.</summary>
    public static void CancelMeetsCompletion(World world)
    {
        using Engine engine = NewEngine(world, startThread: true);
        TokenStream stream = Submit(world, engine, tokens: 3)!;
        world.Start(stream.Cancel);
        world.Start(() => stream.Stop(0));
        (int tokens, FinishReason finish) = ReadToEnd(world, stream);
        world.Check(finish == FinishReason.Length ? tokens == 3
            : tokens < 3 && finish is FinishReason.Cancelled or FinishReason.Stop, $"{finish} after {tokens} tokens");
        world.JoinAll();
        // A second request runs where the first was.
        world.Check(ReadToEnd(world, Submit(world, engine)!) == (1, FinishReason.Length), "the place is free");
        engine.Dispose();
        CheckWhole(world, engine);
    }

    /// <summary>Once a choice was stopped, or a request cancelled, the next turn ends it, whoever did it
    /// beside.</summary>
    public static void NewsIsHeardInTheNextTurn(World world)
    {
        using Engine engine = NewEngine(world, startThread: false);
        TokenStream stopped = Submit(world, engine, tokens: 60, choices: 2)!;
        TokenStream cancelled = Submit(world, engine, tokens: 60)!;
        engine.Turn();
        for (int i = 0; i < 2; i++)
        {
            int choice = i;
            world.Start(() =>
            {
                stopped.Stop(choice);
                cancelled.Cancel();
            });
        }
        engine.Turn();
        engine.Turn();
        world.JoinAll();
        engine.Turn();
        world.Check(ReadToEnd(world, cancelled).Finish == FinishReason.Cancelled, "a cancelled request has ended");
        world.Check(ReadToEnd(world, stopped).Finish == FinishReason.Stop, "stopped choices have ended");
        CheckWhole(world, engine);
    }

    /// <summary>A sleeping engine hears of a cancellation.</summary>
    public static void EngineIsWokenByCancel(World world)
    {
        using Engine engine = NewEngine(world, startThread: true);
        TokenStream stream = Submit(world, engine, tokens: 8)!;
        world.Start(stream.Cancel);
        (int tokens, FinishReason finish) = ReadToEnd(world, stream);
        world.Check(finish == FinishReason.Cancelled && tokens < 8 || tokens == 8, "cancelled or complete");
        world.JoinAll();
        engine.Dispose();
        CheckWhole(world, engine);
    }

    /// <summary>What is accepted beside a drain ends, and the drain after it.</summary>
    public static void DrainMeetsSubmit(World world)
    {
        using Engine engine = NewEngine(world, startThread: true);
        world.Start(() =>
        {
            TokenStream? stream = Submit(world, engine);
            if (stream is null) return;
            (_, FinishReason finish) = ReadToEnd(world, stream);
            world.Check(finish is FinishReason.Length, $"accepted, and {finish}");
        });
        Task<bool> drained = engine.Drain(Timeout.InfiniteTimeSpan);
        world.WaitUntil(() => drained.IsCompleted);
        world.Check(drained.Result, "nothing was aborted");
        world.JoinAll();
        world.Check(Submit(world, engine) is null, "a drained engine takes nothing");
        engine.Dispose();
        CheckWhole(world, engine);
    }

    /// <summary>Of two drains at once the shorter holds, and neither ends before the requests have.</summary>
    public static void TheShorterDrainHolds(World world)
    {
        using Engine engine = NewEngine(world, startThread: false);
        engine.Turn();
        TokenStream stream = Submit(world, engine, tokens: 60)!;
        engine.Turn();
        Task<bool> first = engine.Drain(Timeout.InfiniteTimeSpan);
        engine.Turn();
        world.Check(!first.IsCompleted, "a request runs");
        Task<bool>[] drains = new Task<bool>[2];
        world.Start(() => drains[0] = engine.Drain(TimeSpan.FromHours(1)));
        world.Start(() => drains[1] = engine.Drain(TimeSpan.Zero));
        world.JoinAll();
        engine.Turn();
        engine.Turn();
        world.Check(ReadToEnd(world, stream).Finish == FinishReason.Aborted, "the time is over");
        world.Check(drains[0].IsCompleted && !drains[1].Result, "both drains tell that a request was aborted");
        CheckWhole(world, engine);
    }

    /// <summary>What is accepted beside the end gets one.</summary>
    public static void DisposeMeetsSubmit(World world)
    {
        Engine engine = NewEngine(world, startThread: true);
        world.Start(() =>
        {
            if (Submit(world, engine) is not { } stream) return;
            (_, FinishReason finish) = ReadToEnd(world, stream);
            world.Check(finish is FinishReason.Length or FinishReason.Aborted, $"accepted, and {finish}");
        });
        engine.Dispose();
        world.JoinAll();
        // Who was refused after he was queued stays counted in an engine that is no more.
        CheckWhole(world, engine, counted: false);
    }

    private static Engine NewEngine(World world, bool startThread) =>
        new(world.NewRunner(), [], new EngineOptions
        {
            MaxRunning = 4,
            MaxQueued = 4,
            MaxBatchedTokens = 64,
            PrefixCaching = false,
            Policy = SchedulingPolicy.Fcfs,
        }, startThread, idleBeat: Timeout.InfiniteTimeSpan);

    private static ObjectiveBudget NewBudget() => new(new SloObjective
    {
        Name = "a",
        Sli = SliKind.Availability,
        Percent = 99,
        Window = TimeSpan.FromDays(7),
    }, 1000);

    /// <summary>What the cache holds, by the hashes.</summary>
    private static HashSet<ulong> ReadContent(World world, CacheEvents events)
    {
        HashSet<ulong> known = [];
        for (int block = 0; block < events.BlockCount; block++)
        {
            if (!events.TryReadBlock(block, out CacheEvent read)) continue;
            CheckStored(world, read);
            known.Add(read.Hash);
        }
        return known;
    }

    private static void CheckEvent(World world, long number, CacheEvent read)
    {
        ulong hash = number switch { 5 => 1, 6 => 2, 7 => 1, _ => 3 };
        world.Check(read.Hash == hash && (read.Kind == CacheEventKind.Removed) == (number == 7), "it is that event");
        if (read.Kind == CacheEventKind.Stored) CheckStored(world, read);
    }

    private static void CheckStored(World world, CacheEvent read)
    {
        ulong? parent = read.Hash == 1 ? null : read.Hash - 1;
        world.Check(read.Parent == parent && read.Tokens.All(token => token == (int)read.Hash), "it is of one block");
    }

    private static TokenStream? Submit(World world, Engine engine, int tokens = 1, int choices = 1)
    {
        SamplingParams sampling = new() { MaxTokens = tokens, N = choices, Temperature = 0, IgnoreEos = true };
        SubmitOutcome outcome = engine.Submit(
            new GenerationRequest { Ids = new[] { 1, 2 }, Sampling = sampling }, out TokenStream? stream);
        world.Check(outcome is SubmitOutcome.Accepted or SubmitOutcome.Draining, $"the engine answered {outcome}");
        return stream;
    }

    private static (int Tokens, FinishReason Finish) ReadToEnd(World world, TokenStream stream)
    {
        int tokens = 0, ended = 0, inVain = 0;
        FinishReason finish = FinishReason.None;
        while (true)
        {
            ValueTask<bool> wait = stream.WaitAsync();
            world.WaitUntil(() => wait.IsCompleted);
            if (!wait.GetAwaiter().GetResult())
            {
                world.Check(inVain <= tokens + 1, "an event wakes once");
                return (tokens, finish);
            }
            int before = tokens + ended;
            while (stream.TryRead(out TokenEvent e))
            {
                world.Check(ended < stream.N, "nothing comes after the end");
                if (e.Token >= 0) tokens++;
                if (e.Finish == FinishReason.None) continue;
                finish = e.Finish;
                ended++;
            }
            if (tokens + ended == before) inVain++;
        }
    }

    private static void CheckWhole(World world, Engine engine, bool counted = true)
    {
        world.Check(engine.Scheduler.CheckIntegrity() is null, "the blocks add up");
        world.Check(engine.Scheduler.Pool.OwnedCount == 0, "every block is free");
        world.Check(!counted || engine.Queued == 0, "nobody is counted as queued");
        world.Check(engine.Metrics.FailedSteps == 0, "no step failed");
    }

    /// <summary>What is written in two stores.</summary>
    internal readonly record struct Both(long First, long Second) : IHalved<Both>
    {
        public Both With(Both second) => new(First, second.Second);
    }

    /// <summary>What one thread writes and another reads.</summary>
    internal sealed class News
    {
        /// <summary>Written plainly: what hands it over must order it.</summary>
        public int Value;

        public int Producer { get; init; }
    }
}
