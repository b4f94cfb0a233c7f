using System.Text;
using Native.Scheduling.Slo;
using Native.Server.Serving;
using Native.Server.Slo;
using Native.Server.Tenancy;
using Native.Tests.Scheduling;

namespace Native.Tests.Fuzz;

/// <summary>Objectives and tenants as people write them, and the file that budgets are kept in.</summary>
public sealed class SloFuzzTests
{
    private static readonly string[] Words =
    [
        "slos", "tenants", "api_keys", "weight", "tokens_per_minute", "name", "sli", "threshold",
        "objective", "window", "class", "tenant", "role", "min_events", ": ", "- ",
        "[", "]", "{", "}", "? ", "&a ", "*a", "!!map ", "!x ", "<<: ", "|\n", ">-\n", "'", "\"", "\\x", "#", "---\n",
        "...\n", "%YAML 1.1\n", "\t", "~", "null", "ttft", "availability", "99.9", "1e9", "30d", "0ms", "-1s", "\uFEFF",
        "\U0001F600", "\0", "\r\n", "[[[[[[[[", "{{{{{{{{", "- - - - ",
    ];

    [Fact]
    public void Objectives_AreReadOrRefused()
    {
        Mutator inputs = new(InputKind.Text,
            [
                Seeds.Utf8(SloFile.Example),
                Seeds.Utf8("{slos: [{name: a, sli: e2e, threshold: 2.5s, objective: 99.5, window: 7d, class: x}]}"),
                Seeds.Utf8("""
                    # note
                    "slos":
                    - 'name': b
                      "sli": availability
                      objective: 50
                      tenant: "a\tb"
                    """),
                .. FuzzTarget.Finds("slo"),
            ], Words);
        Run("slo", inputs, text => SloFile.Parse("f", text));
    }

    [Fact]
    public void Tenants_AreReadOrRefused()
    {
        Mutator inputs = new(InputKind.Text,
            [
                Seeds.Utf8(TenantFile.Example),
                Seeds.Utf8("{tenants: [{name: a, api_keys: [b, 'c', \"d\"], weight: 1e1}, {name: b}]}"),
                .. FuzzTarget.Finds("tenants"),
            ], Words);
        Run("tenants", inputs, text => TenantFile.Parse("f", text));
    }

    private static void Run(string name, Mutator inputs, Action<string> parse) =>
        new FuzzTarget(name, inputs.Next, bytes => parse(Encoding.UTF8.GetString(bytes)))
        {
            Refuses = e => e is ConfigFileException,
            AllocationBase = 256 << 10,
            AllocationPerByte = 1024,
        }.Run();

    [Fact]
    public void AStateFile_IsReadAsFarAsItIsWhole_OrRefused()
    {
        string folder = Directory.CreateTempSubdirectory("native-slo-fuzz-").FullName;
        try
        {
            string path = Path.Combine(folder, "state");
            SloClock clock = new();
            BudgetLedger ledger = Ledger(clock);
            using (BudgetFile file = BudgetFile.Open(path, ledger, []))
            {
                for (int i = 0; i < 20; i++)
                {
                    ledger.TenSeconds(clock, 3, 1);
                    if (i % 7 == 0) file.Save();
                }
            }
            byte[] whole = File.ReadAllBytes(path);
            Mutator inputs = new(
                InputKind.Binary, [whole, .. FuzzTarget.Finds("slo-state")], "native slo state 1\n", "answered\n");
            int round = 0;
            new FuzzTarget("slo-state", inputs.Next, bytes =>
            {
                string other = Path.Combine(folder, $"{round++}");
                File.WriteAllBytes(other, bytes);
                try
                {
                    BudgetLedger again = Ledger(clock);
                    BudgetFile.Open(other, again, []).Dispose();
                    foreach (BudgetWindow window in Enum.GetValues<BudgetWindow>())
                        Assert.InRange(again.Read(0, window).Total, 0, 80); // no count that was never there
                }
                finally
                {
                    File.Delete(other);
                }
            })
            {
                Refuses = e => e is InvalidDataException,
                AllocationBase = 1 << 20, // seven days of pairs, and a frame
                AllocationPerByte = 64,
            }.Run();
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static BudgetLedger Ledger(SloClock clock) =>
        new(new SloSpec([Objectives.Availability() with { Window = TimeSpan.FromDays(7) }]), clock);
}
